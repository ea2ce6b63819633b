// Package allow says what a CA key may sign: what hallpass signs with it, within
// caps of its own, and nothing else. It knows no KMS.
package allow

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Role is what a CA key is for. A key has one: what certifies users can't be
// taken for what certifies hosts.
type Role struct {
	Name     string
	certType uint32
	keyID    string        // that its certificates' begin with
	lifetime time.Duration // longest of its certificates, as in hallpass's package ca
	told     bool          // it signs key revocation lists, and what hosts are told
}

// The roles that there are.
var (
	Users = Role{Name: "the SSH CA", certType: ssh.UserCert, keyID: "hallpass:", lifetime: 24 * time.Hour, told: true}
	Hosts = Role{Name: "the CA of hosts", certType: ssh.HostCert, keyID: "hallpass-host:", lifetime: 30 * 24 * time.Hour}
)

// Skew is how far clocks of different machines may differ, and how long before
// its beginning hallpass makes a certificate valid.
const Skew = 5 * time.Minute

// Trial is what hallpass signs to see whether a key can be used.
const Trial = "hallpass: can this key be used?"

// sigMagic begins what SSHSIG signs (PROTOCOL.sshsig).
const sigMagic = "SSHSIG"

// namespaces are what the CA of users signs under beside certificates, as in hallpass's
// packages ca/krl and statement, and what that is.
var namespaces = map[string]string{"krl@hallpass": "key revocation list", "enrolled@hallpass": "what a host is told"}

// Data says what the data is, if a CA key of this role may sign it: a
// certificate that ends within its lifetime from now, the hash of a key
// revocation list or of what a host is told, or the line of a trial, which is not worth a word: "".
func Data(r Role, key ssh.PublicKey, data []byte, now time.Time) (what string, err error) {
	switch {
	case string(data) == Trial:
		return "", nil
	case bytes.HasPrefix(data, []byte(sigMagic)):
		return envelope(r, data[len(sigMagic):])
	default:
		return certificate(r, key, data, now)
	}
}

func envelope(r Role, data []byte) (what string, err error) {
	var signed struct {
		Namespace, Reserved, Hash string
		Sum                       []byte
	}
	if err := ssh.Unmarshal(data, &signed); err != nil {
		return "", errors.New("the signature asked for can't be read")
	}
	what = fmt.Sprintf("signature for %.80q", signed.Namespace)
	named, ok := namespaces[signed.Namespace]
	if !ok {
		return what, fmt.Errorf("it signs for %s alone", strings.Join(slices.Sorted(maps.Keys(namespaces)), " and "))
	}
	if !r.told {
		return what, fmt.Errorf("%s signs nothing but certificates", r.Name)
	}
	if sizes := map[string]int{"sha256": 32, "sha512": 64}; signed.Reserved != "" || len(signed.Sum) == 0 || sizes[signed.Hash] != len(signed.Sum) {
		return what, errors.New("it is not as PROTOCOL.sshsig says")
	}
	return fmt.Sprintf("%s %x", named, signed.Sum[:8]), nil
}

// certificate looks at a certificate that lacks its signature.
func certificate(r Role, key ssh.PublicKey, data []byte, now time.Time) (what string, err error) {
	placeholder := ssh.Marshal(struct{ Signature []byte }{ssh.Marshal(ssh.Signature{Format: "none", Blob: []byte{0}})})
	parsed, err := ssh.ParsePublicKey(slices.Concat(data, placeholder))
	cert, ok := parsed.(*ssh.Certificate)
	if err != nil || !ok {
		return "something else", errors.New("it signs certificates, key revocation lists and what hosts are told alone")
	}
	what = fmt.Sprintf("certificate %d of %.120q", cert.Serial, cert.KeyId)
	// What is judged is what is signed: there is one way to write it.
	unsigned := *cert
	unsigned.Signature = nil
	if again := unsigned.Marshal(); !bytes.Equal(again[:len(again)-4], data) { // but for the length of the signature
		return what, errors.New("the certificate is not written as x/crypto/ssh writes it")
	}
	latest := uint64(now.Add(r.lifetime + Skew).Unix())
	switch {
	case !bytes.Equal(cert.SignatureKey.Marshal(), key.Marshal()):
		return what, errors.New("the certificate names another CA")
	case bytes.Equal(cert.Key.Marshal(), key.Marshal()):
		return what, errors.New("the certificate is for the CA's own key")
	case cert.CertType != r.certType:
		return what, fmt.Errorf("%s signs no certificates of type %d", r.Name, cert.CertType)
	case !strings.HasPrefix(cert.KeyId, r.keyID):
		return what, fmt.Errorf("the certificate's key id doesn't begin with %s", r.keyID)
	case uint32(cert.Serial) == 0: // the lower half counts (docs/spec/krl.md)
		return what, fmt.Errorf("the certificate's serial is %d, which can't be revoked", cert.Serial)
	case len(cert.ValidPrincipals) == 0 || slices.Contains(cert.ValidPrincipals, ""):
		return what, errors.New("the certificate would be good for everything: it has no principals")
	case r.certType == ssh.UserCert && slices.ContainsFunc(cert.ValidPrincipals, func(p string) bool { return !strings.Contains(p, "/") }):
		return what, errors.New("a principal of the certificate is not of the form resource/login")
	case cert.ValidBefore > latest:
		return what, fmt.Errorf("the certificate would be valid for longer than %s from now", r.lifetime)
	case cert.ValidBefore <= cert.ValidAfter:
		return what, errors.New("the certificate would end before it begins")
	}
	return what, nil
}
