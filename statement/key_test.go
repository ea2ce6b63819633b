package statement

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hallpass/access"
)

func TestParseKey(t *testing.T) {
	line := func(s ssh.Signer) string { return MarshalKey(s.PublicKey()) }
	typ, data, _ := strings.Cut(ed25519Line, " ")
	raw, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		t.Fatal(err)
	}
	form := func(s string) string { return fmt.Sprintf("public key %q is not of the form \"type base64\"", clip(s)) }
	unpadded := strings.TrimRight(line(newSigner(t, "ecdsa-256")), "=")
	for _, tt := range []struct{ name, in, want string }{
		{"ed25519", ed25519Line, ""},
		{"ecdsa-256", line(newSigner(t, "ecdsa-256")), ""},
		{"ecdsa-384", line(newSigner(t, "ecdsa-384")), ""},
		{"ecdsa-521", line(newSigner(t, "ecdsa-521")), ""},
		{"sk-ed25519", line(newSecurityKey(t, "ed25519", 0)), ""},
		{"sk-ecdsa", line(newSecurityKey(t, "ecdsa-256", 0)), ""},
		{"rsa-3072", line(newSigner(t, "rsa-3072")), ""},
		{"rsa-3071", line(newSigner(t, "rsa-3071")), "RSA key has 3071 bits, not 3072 to 8192"},
		{"dsa", line(dsaSigner(t)), "DSA keys are refused"},
		{"certificate", line(certSigner(t)), "public key is a certificate"},
		{"empty", "", form("")},
		{"one word", typ, form(typ)},
		{"comment", ed25519Line + " alice", form(ed25519Line + " alice")},
		{"trailing space", ed25519Line + " ", form(ed25519Line + " ")},
		{"trailing line end", ed25519Line + "\n", form(ed25519Line + "\n")},
		{"line end inside", typ + " " + data[:10] + "\n" + data[10:], form(typ + " " + data[:10] + "\n" + data[10:])},
		{"two spaces", typ + "  " + data, form(typ + "  " + data)},
		{"tab", typ + "\t" + data, form(typ + "\t" + data)},
		{"options", `restrict ` + ed25519Line, form(`restrict ` + ed25519Line)},
		{"another type in front", "ssh-rsa " + data, form("ssh-rsa " + data)},
		{"no padding", unpadded, form(unpadded)},
		{"trailing byte", typ + " " + base64.StdEncoding.EncodeToString(append(raw, 0)), `public key of type "ssh-ed25519" can't be read: trailing junk in public key`},
		{"cut short", typ + " " + base64.StdEncoding.EncodeToString(raw[:len(raw)-3]), `public key of type "ssh-ed25519" can't be read: short read`},
		{"type unknown", "x " + base64.StdEncoding.EncodeToString(ssh.Marshal(struct{ T string }{"\x1b[31m"})), `public key of type "x" can't be read: unknown key algorithm: [31m`},
		{"long type unknown", "x " + base64.StdEncoding.EncodeToString(ssh.Marshal(struct{ T string }{strings.Repeat("ö", 100)})),
			`public key of type "x" can't be read: unknown key algorithm: ` + strings.Repeat("ö", 27) + "..."},
		{"too long", typ + " " + strings.Repeat("A", maxKeyLine), "public key is longer than 4096 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, err := ParseKey(tt.in)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if MarshalKey(k) != tt.in {
					t.Errorf("written as %s", MarshalKey(k))
				}
				return
			}
			wantError(t, err, access.CodeMalformed, tt.want)
		})
	}
}

// The agent's client returns keys of its own type.
func TestCheckKeyFromAgent(t *testing.T) {
	for typ, ok := range map[string]bool{"ed25519": true, "rsa-3072": true, "rsa-3071": false} {
		ring := agent.NewKeyring()
		if err := ring.Add(agent.AddedKey{PrivateKey: newKey(t, typ)}); err != nil {
			t.Fatal(err)
		}
		list, err := ring.List()
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckKey(list[0]); (err == nil) != ok {
			t.Errorf("%s: %v", typ, err)
		}
	}
}

func TestRSAUpperBound(t *testing.T) {
	// A modulus of so many bits; whether it has factors doesn't matter here.
	for bits, ok := range map[int]bool{MaxRSA: true, MaxRSA + 8: false} {
		n := make([]byte, bits/8+1)
		n[1], n[len(n)-1] = 0x80, 1
		wire := ssh.Marshal(struct {
			Type string
			E, N []byte
		}{ssh.KeyAlgoRSA, []byte{1, 0, 1}, n})
		_, err := ParseKey("ssh-rsa " + base64.StdEncoding.EncodeToString(wire))
		if (err == nil) != ok {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(ed25519Line)
	f.Add(MarshalKey(newSigner(f, "ecdsa-256").PublicKey()))
	f.Add(MarshalKey(newSigner(f, "rsa-3072").PublicKey()))
	f.Add(MarshalKey(newSecurityKey(f, "ecdsa-256", 0).PublicKey()))
	f.Add(MarshalKey(certSigner(f).PublicKey()))
	f.Add("x " + base64.StdEncoding.EncodeToString(ssh.Marshal(struct{ T string }{strings.Repeat("ö", 100)})))
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKey(s)
		checkFuzzed(t, err)
		if err == nil && (MarshalKey(k) != s || CheckKey(k) != nil) {
			t.Errorf("%q became %q", s, MarshalKey(k))
		}
	})
}
