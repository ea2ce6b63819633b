package statement_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/directory"
	"hallpass/statement"
	"hallpass/testsuite/process"
)

// sshKeygen runs the real thing.
func sshKeygen(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("ssh-keygen", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var kinds = []struct {
	name string
	args []string
}{
	{"ed25519", []string{"-t", "ed25519"}},
	{"ecdsa-256", []string{"-t", "ecdsa", "-b", "256"}},
	{"ecdsa-521", []string{"-t", "ecdsa", "-b", "521"}},
	{"rsa-3072", []string{"-t", "rsa", "-b", "3072"}},
}

// people makes keys for alice and bob with ssh-keygen, and a directory that
// knows them. It returns the folder with the files alice, bob and
// allowed_signers.
func people(t *testing.T, args []string) (string, *directory.Directory) {
	t.Helper()
	dir := t.TempDir()
	var yaml bytes.Buffer
	yaml.WriteString("users:\n")
	for _, name := range []string{"alice", "bob"} {
		path := filepath.Join(dir, name)
		if out, err := sshKeygen(t, "", append([]string{"-q", "-N", "", "-C", name + "@laptop", "-f", path}, args...)...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		public, err := os.ReadFile(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&yaml, "  %s:\n    keys:\n      - %s", name, public)
	}
	d, err := directory.Parse("directory.yaml", yaml.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "allowed_signers"), d.AllowedSigners(), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, d
}

func someRequest() access.Request {
	return access.Request{
		Header:   access.Header{Type: access.TypeRequest, ID: statement.NewID(), Signer: "alice", Time: statement.Time(time.Now())},
		Resource: "ssh/web-1", Duration: 60, Reason: "größer <than> ever",
	}
}

func TestOpenSSH(t *testing.T) {
	process.Installed(t, "ssh-keygen")
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			dir, d := people(t, k.args)
			t.Run("verifies ours", func(t *testing.T) { verifiesOurs(t, dir) })
			t.Run("signs for us", func(t *testing.T) { signsForUs(t, dir, d) })
		})
	}
}

// What we sign, OpenSSH verifies with the directory's allowed_signers, and
// refuses under everything that is off.
func verifiesOurs(t *testing.T, dir string) {
	signer, err := statement.FindSigner(statement.SignerOptions{Key: filepath.Join(dir, "alice")})
	if err != nil {
		t.Fatal(err)
	}
	st, err := statement.Sign(signer, someRequest())
	if err != nil {
		t.Fatal(err)
	}
	sig := filepath.Join(dir, "sig")
	if err := os.WriteFile(sig, []byte(st.Signature), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, who, namespace, payload string
		ok                            bool
	}{
		{"as signed", "alice", "request@hallpass", st.Payload, true},
		{"another person", "bob", "request@hallpass", st.Payload, false},
		{"another type", "alice", "decision@hallpass", st.Payload, false},
		{"not our namespace", "alice", "git", st.Payload, false},
		{"other bytes", "alice", "request@hallpass", st.Payload + " ", false},
	} {
		out, err := sshKeygen(t, tt.payload, "-Y", "verify", "-f", filepath.Join(dir, "allowed_signers"), "-I", tt.who, "-n", tt.namespace, "-s", sig)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v: %s", tt.name, err, out)
		}
	}
}

// What OpenSSH signs, we open, from a payload that somebody wrote by hand.
func signsForUs(t *testing.T, dir string, d *directory.Directory) {
	payload := fmt.Sprintf("{\n  \"type\": \"request\",\n  \"id\": %q,\n  \"signer\": \"alice\",\n  \"time\": \"2026-05-04T03:02:01Z\",\n  \"resource\": \"ssh/web-1\",\n  \"duration\": 60\n}\n", statement.NewID())
	for _, hash := range []string{"sha256", "sha512"} {
		t.Run(hash, func(t *testing.T) {
			sign := func(who, namespace string) access.Statement {
				sig, err := sshKeygen(t, payload, "-q", "-Y", "sign", "-O", "hashalg="+hash, "-f", filepath.Join(dir, who), "-n", namespace)
				if err != nil {
					t.Fatalf("%v: %s", err, sig)
				}
				return access.Statement{Payload: payload, Signature: sig}
			}
			r, u, err := statement.OpenRequest(sign("alice", "request@hallpass"), d)
			if err != nil || u.Name != "alice" || r.Resource != "ssh/web-1" || r.Duration != 60 {
				t.Errorf("%+v, %+v, %v", r, u, err)
			}
			if _, _, err := statement.OpenRequest(sign("bob", "request@hallpass"), d); err == nil || err.Error() != "request names alice as its signer, but is signed by a key of bob" {
				t.Error(err)
			}
			if _, _, err := statement.OpenRequest(sign("alice", "decision@hallpass"), d); access.CodeOf(err) != access.CodeUnverified {
				t.Error(err)
			}
			changed := sign("alice", "request@hallpass")
			changed.Payload = strings.Replace(changed.Payload, "60", "90", 1)
			if _, _, err := statement.OpenRequest(changed, d); access.CodeOf(err) != access.CodeUnverified {
				t.Error(err)
			}
		})
	}
}

// A signature under a foreign namespace doesn't pass for a user of the
// allowed_signers file even if it is right.
func TestAllowedSignersLimitNamespaces(t *testing.T) {
	process.Installed(t, "ssh-keygen")
	dir, _ := people(t, kinds[0].args)
	sig, err := sshKeygen(t, "x", "-q", "-Y", "sign", "-f", filepath.Join(dir, "alice"), "-n", "git")
	if err != nil {
		t.Fatalf("%v: %s", err, sig)
	}
	path := filepath.Join(dir, "sig")
	if err := os.WriteFile(path, []byte(sig), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := sshKeygen(t, "x", "-Y", "verify", "-f", filepath.Join(dir, "allowed_signers"), "-I", "alice", "-n", "git", "-s", path); err == nil {
		t.Errorf("verified: %s", out)
	}
}

// Encrypted files made by ssh-keygen open with the passphrase.
func TestFindSignerOpensSSHKeygensFiles(t *testing.T) {
	process.Installed(t, "ssh-keygen")
	path := filepath.Join(t.TempDir(), "id")
	if out, err := sshKeygen(t, "", "-q", "-t", "ed25519", "-N", "secret", "-f", path); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := statement.FindSigner(statement.SignerOptions{Key: path, Passphrase: func(string) ([]byte, error) { return []byte("secret"), nil }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := statement.Sign(s, someRequest()); err != nil {
		t.Error(err)
	}
}

// The example in the specification is a real one.
func TestSpecExample(t *testing.T) {
	spec, err := os.ReadFile("../docs/spec/statement.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(after, open string) string {
		_, rest, ok := strings.Cut(string(spec), after)
		_, rest, ok2 := strings.Cut(rest, "```"+open+"\n")
		text, _, ok3 := strings.Cut(rest, "\n```")
		if !ok || !ok2 || !ok3 {
			t.Fatalf("no block after %q", after)
		}
		return text
	}
	st := access.Statement{Payload: block("## Example", "json"), Signature: block("signs them:", "")}
	d, err := directory.Parse("directory.yaml", []byte(block("whose key that is:", "yaml")))
	if err != nil {
		t.Fatal(err)
	}
	r, u, err := statement.OpenRequest(st, d)
	if err != nil || u.Name != "alice" || r.Reason != "restart nginx" {
		t.Errorf("%+v, %+v, %v", r, u, err)
	}
	for _, want := range []string{st.Hash(), fmt.Sprintf("%d of them", len(st.Payload)), string(bytes.TrimSpace(d.AllowedSigners()))} {
		if !bytes.Contains(spec, []byte(want)) {
			t.Errorf("the specification doesn't say %q", want)
		}
	}
}
