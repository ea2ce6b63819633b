package krl

import (
	"bytes"
	"encoding/base64"
	"slices"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
)

// Namespace is the SSHSIG namespace that lists are signed under.
const Namespace = "krl@hallpass"

// SignatureHeader is the HTTP header that carries the signature of the list in
// the body, as EncodeSignature writes it.
const SignatureHeader = "Hallpass-Krl-Signature"

// Sign signs the bytes of a list with a CA's key: whoever trusts the CA to let
// people in trusts it to keep them out.
func Sign(ca ssh.Signer, list []byte) (signature string, err error) {
	return statement.SignData(ca, Namespace, list)
}

// Open verifies that one of the trusted CA keys has signed the list, and only
// then reads it. It doesn't know which versions there were before: going back
// is for the caller to refuse.
//
// Errors: access.CodeUnverified for a signature that isn't good or not of a
// trusted key, access.CodeMalformed for a list that can't be read.
func Open(list []byte, signature string, trusted []ssh.PublicKey) (*List, error) {
	if len(list) > MaxSize {
		return nil, malformed("it is longer than %d bytes", MaxSize)
	}
	key, err := statement.VerifyData(list, Namespace, signature)
	if err != nil {
		return nil, err
	}
	signer := key.Marshal()
	if !slices.ContainsFunc(trusted, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), signer) }) {
		return nil, access.Errorf(access.CodeUnverified, "key revocation list is signed by %s, which is not one of the trusted CA keys", ssh.FingerprintSHA256(key))
	}
	return Parse(list)
}

// EncodeSignature writes a signature so that it fits into a header: the
// base64 of its armor.
func EncodeSignature(signature string) string {
	return base64.StdEncoding.EncodeToString([]byte(signature))
}

// DecodeSignature reads what EncodeSignature wrote.
func DecodeSignature(header string) (signature string, err error) {
	data, err := base64.StdEncoding.Strict().DecodeString(header)
	if err != nil {
		return "", access.Errorf(access.CodeUnverified, "signature of the key revocation list is damaged: the base64 of %s", SignatureHeader)
	}
	return string(data), nil
}
