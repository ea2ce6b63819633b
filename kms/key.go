//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/awskms"
	"go.step.sm/crypto/kms/azurekms"
	"go.step.sm/crypto/kms/cloudkms"
	"go.step.sm/crypto/kms/pkcs11"
	"go.step.sm/crypto/kms/softkms"
	"go.step.sm/crypto/kms/uri"
	"golang.org/x/crypto/ssh"

	"hallpass/kms/allow"
)

// managers are the kinds of KMS that a key can be in, by the scheme of its URI.
var managers = map[string]func(context.Context, apiv1.Options) (apiv1.KeyManager, error){
	awskms.Scheme:   manager(awskms.New),
	azurekms.Scheme: manager(azurekms.New),
	cloudkms.Scheme: manager(cloudkms.New),
	softkms.Scheme:  manager(softkms.New),
	"pkcs11":        manager(pkcs11.New),
}

func manager[M apiv1.KeyManager](open func(context.Context, apiv1.Options) (M, error)) func(context.Context, apiv1.Options) (apiv1.KeyManager, error) {
	return func(ctx context.Context, o apiv1.Options) (apiv1.KeyManager, error) {
		m, err := open(ctx, o)
		if err != nil {
			return nil, err
		}
		return m, nil
	}
}

const (
	maxURI = 1000 // bytes
	maxWhy = 500  // bytes of what a KMS says
)

// checkURI says what is wrong with the name of a key, if anything. It doesn't
// repeat it: there may be a secret in it. Those are refused, because a URI is in
// the command line, and the files that it names have to be their owner's.
func checkURI(name string) error {
	u, err := uri.Parse(name)
	if err != nil || len(name) > maxURI {
		return errors.New("the URI can't be read; it is of the form SCHEME:NAME=VALUE;…?NAME=VALUE&…")
	}
	if _, ok := managers[u.Scheme]; !ok {
		return fmt.Errorf("the URI begins with %.20q, not with one of %s", u.Scheme, strings.Join(slices.Sorted(maps.Keys(managers)), ", "))
	}
	if u.Scheme == "pkcs11" && !hasPKCS11 {
		return errors.New("this hallpass-kms is built without cgo, and so without PKCS#11: make kms builds one with it")
	}
	for field, values := range uri.Values(u) {
		switch strings.ToLower(field) {
		case "pin-value", "pin-prompt", "client-secret":
			return fmt.Errorf("the URI has %s in it, which everybody on this machine could read; pin-source names a file, and clouds' secrets go into their SDK's own files or variables", strings.ToLower(field))
		case "pin-source", "credentials-file", "path":
			if err := checkPrivate(values[0]); err != nil {
				return fmt.Errorf("%s: %w", field, err)
			}
		}
	}
	if u.Scheme == softkms.Scheme && u.Get("path") == "" {
		return errors.New("the URI has no path: softkms:path=/path/of/the/key.pem")
	}
	return nil
}

// checkPrivate looks whether a file is its owner's alone.
func checkPrivate(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%.80q is not an absolute path", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o, so others can read it; run: chmod 600 %[1]s", path, mode)
	}
	return nil
}

// key is one CA key, whether its KMS has opened it or not.
type key struct {
	role allow.Role
	flag string // that names it
	uri  string
	log  *slog.Logger
	pins *pins // of all keys

	mu      sync.Mutex
	signer  ssh.AlgorithmSigner // nil until the KMS has opened it
	trouble error               // why it hasn't
}

// errPIN is a token that has refused the PIN.
var errPIN = errors.New("the token refuses the PIN, and it is not tried again, because tokens lock themselves; mend pin-source and start hallpass-kms anew")

// get is the signer, or why there is none.
func (k *key) get() (ssh.AlgorithmSigner, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.trouble != nil {
		return nil, fmt.Errorf("%s can't be opened: %w", k.role.Name, k.trouble)
	}
	return k.signer, nil
}

// keepOpening opens the key, as often as it takes.
func (k *key) keepOpening(ctx context.Context) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		signer, err := k.openOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		k.mu.Lock()
		k.signer, k.trouble = signer, err
		k.mu.Unlock()
		if err == nil {
			k.log.Info("holds "+k.role.Name, "fingerprint", ssh.FingerprintSHA256(signer.PublicKey()), "type", signer.PublicKey().Type())
			return
		}
		if errors.Is(err, errPIN) {
			k.log.Error("can't open "+k.role.Name, "error", err.Error())
			return
		}
		k.log.Error("can't open "+k.role.Name, "error", err.Error(), "again_in", wait.String())
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// pins are the PIN files that a token has refused. Keys of one token are opened
// one after the other, so that a wrong PIN is tried once for all of them.
type pins struct {
	mu   sync.Mutex
	file map[string]bool
}

func (k *key) openOnce(ctx context.Context) (ssh.AlgorithmSigner, error) {
	u, err := uri.Parse(k.uri)
	if err != nil || u.Scheme != "pkcs11" {
		return open(ctx, k.uri)
	}
	k.pins.mu.Lock()
	defer k.pins.mu.Unlock()
	file := u.Get("pin-source")
	if k.pins.file[file] {
		return nil, errPIN
	}
	signer, err := open(ctx, k.uri)
	if errors.Is(err, errPIN) {
		k.pins.file[file] = true
	}
	return signer, err
}

// open has the KMS open a key, and sign a line with it: a key that may be seen
// may not be used yet.
func open(ctx context.Context, name string) (ssh.AlgorithmSigner, error) {
	u, err := uri.Parse(name)
	if err != nil {
		return nil, errors.New("the URI can't be read") // checkURI has
	}
	m, err := managers[u.Scheme](ctx, apiv1.Options{Type: apiv1.Type(u.Scheme), URI: name})
	if err != nil {
		return nil, said(err)
	}
	signer, err := m.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: name})
	if err == nil {
		var s ssh.AlgorithmSigner
		if s, err = try(signer); err == nil {
			return s, nil
		}
	}
	_ = m.Close() // it was good for nothing
	return nil, said(err)
}

// said is an error of a KMS, in one line of bounded length, without the rules
// that Azure's SDK draws into its own.
func said(err error) error {
	if errors.Is(err, errPIN) {
		return errPIN
	}
	words := slices.DeleteFunc(strings.Fields(err.Error()), func(w string) bool { return strings.Trim(w, "-") == "" })
	text := strings.Join(words, " ")
	if strings.Contains(text, "CKR_PIN_") {
		return errPIN
	}
	return errors.New(strings.ToValidUTF8(text[:min(len(text), maxWhy)], ""))
}

// algorithm is what a CA of hallpass signs with: for RSA with SHA-512 and
// nothing else.
func algorithm(k ssh.PublicKey) string {
	if k.Type() == ssh.KeyAlgoRSA {
		return ssh.KeyAlgoRSASHA512
	}
	return k.Type()
}

func same(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

func sign(s ssh.AlgorithmSigner, data []byte) (*ssh.Signature, error) {
	signature, err := s.SignWithAlgorithm(rand.Reader, data, algorithm(s.PublicKey()))
	if err != nil {
		return nil, said(err)
	}
	// A KMS that has another version of the key by now signs with that.
	if err := s.PublicKey().Verify(data, signature); err != nil {
		return nil, fmt.Errorf("the KMS made a signature that doesn't verify with the key %s", ssh.FingerprintSHA256(s.PublicKey()))
	}
	return signature, nil
}
