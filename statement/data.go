package statement

import (
	"bytes"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// SignData signs bytes that are no statement, such as a key revocation list,
// under a namespace of their own, and returns the armored signature. As with
// Sign, what the key returned is verified.
func SignData(signer ssh.Signer, namespace string, data []byte) (string, error) {
	if err := CheckKey(signer.PublicKey()); err != nil {
		return "", err
	}
	sig, err := sshsig.Sign(bytes.NewReader(data), signer, sshsig.HashSHA512, namespace)
	if err != nil {
		return "", access.Errorf(access.CodeUnavailable, "key %s doesn't sign: %s", ssh.FingerprintSHA256(signer.PublicKey()), reason(err))
	}
	armored := string(sshsig.Armor(sig))
	if _, err := VerifyData(data, namespace, armored); err != nil {
		return "", err
	}
	return armored, nil
}

// VerifyData checks an armored signature over exactly these bytes, as strictly
// as Verify, and returns the key that signed. Whose key that is, and whether
// it may sign such a thing, is for the caller to say. Anybody can check the
// same with ssh-keygen -Y verify.
func VerifyData(data []byte, namespace, signature string) (ssh.PublicKey, error) {
	if signature == "" {
		return nil, access.Errorf(access.CodeUnverified, "signature for %q is missing", clip(namespace))
	}
	sig, err := unarmor(signature)
	if err != nil {
		return nil, err
	}
	if err := CheckKey(sig.PublicKey); err != nil {
		return nil, err
	}
	if sig.Namespace != namespace {
		return nil, access.Errorf(access.CodeUnverified, "signature is for %q, not for %q", clip(sig.Namespace), clip(namespace))
	}
	if err := sshsig.Verify(bytes.NewReader(data), sig, sig.PublicKey, sig.HashAlgorithm, namespace); err != nil {
		return nil, access.Errorf(access.CodeUnverified, "signature by %s is not valid: %s",
			ssh.FingerprintSHA256(sig.PublicKey), strings.TrimSpace(reason(err)))
	}
	return sig.PublicKey, nil
}
