package ca

import (
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"golang.org/x/crypto/ssh"

	"hallpass/testsuite/measure"
)

// BenchmarkIssue compares, for each type of key, a whole Prepare and Issue
// with the parts that no CA can do without: signing the same bytes (sign), and
// signing them and checking the signature (sign+verify).
func BenchmarkIssue(b *testing.B) {
	for _, k := range []struct {
		name   string
		signer ssh.AlgorithmSigner
	}{
		{"ed25519", newEd25519(b)},
		{"p256", newECDSA(b, elliptic.P256())},
		{"p384", newECDSA(b, elliptic.P384())},
		{"p521", newECDSA(b, elliptic.P521())},
		{"rsa3072", rsaKey(b, 3072)},
		{"rsa4096", rsaKey(b, 4096)},
	} {
		authority, err := New(k.signer, clock)
		if err != nil {
			b.Fatal(err)
		}
		spec := good(b)
		issue := func(b *testing.B) *ssh.Certificate {
			p, err := authority.Prepare(spec)
			if err != nil {
				b.Fatal(err)
			}
			cert, err := authority.Issue(p)
			if err != nil {
				b.Fatal(err)
			}
			return cert
		}
		cert := issue(b)
		unsigned := *cert
		unsigned.Signature = nil
		data := unsigned.Marshal()
		data = data[:len(data)-4] // the length of the missing signature
		alg := cert.Signature.Format

		b.Run(k.name+"/sign", func(b *testing.B) {
			measure.Loop(b, func() {
				if _, err := k.signer.SignWithAlgorithm(rand.Reader, data, alg); err != nil {
					b.Fatal(err)
				}
			})
		})
		b.Run(k.name+"/sign+verify", func(b *testing.B) {
			measure.Loop(b, func() {
				sig, err := k.signer.SignWithAlgorithm(rand.Reader, data, alg)
				if err != nil {
					b.Fatal(err)
				}
				if err := authority.PublicKey().Verify(data, sig); err != nil {
					b.Fatal(err)
				}
			})
		})
		b.Run(k.name+"/issue", func(b *testing.B) {
			measure.Loop(b, func() { issue(b) })
		})
	}
}
