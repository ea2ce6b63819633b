package directory

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/internal/yamlfile"
	"hallpass/statement"
)

// edKey is a key that depends on n alone.
func edKey(n int) string {
	seed := sha256.Sum256([]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	k, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed[:]).Public())
	if err != nil {
		panic(err)
	}
	return statement.MarshalKey(k)
}

// skKey is a FIDO key that depends on n alone.
func skKey(n int) string {
	blob := sha256.Sum256([]byte{byte(n)})
	wire := ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, blob[:], "ssh:"})
	return ssh.KeyAlgoSKED25519 + " " + base64.StdEncoding.EncodeToString(wire)
}

func parseKey(t *testing.T, s string) ssh.PublicKey {
	t.Helper()
	k, err := statement.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var example = `# who is who
users:
  bob:
    groups: [sre, dev]
    keys:
      - ` + edKey(1) + ` bob@laptop, the blue one
      - ` + edKey(2) + `
  alice:
    groups: [dev]
    pin: required
    keys: [` + skKey(3) + `]
  carol: {}
`

func TestDirectory(t *testing.T) {
	d, err := Parse("directory.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := []access.User{
		{Name: "alice", Groups: []string{"dev"}},
		{Name: "bob", Groups: []string{"dev", "sre"}},
		{Name: "carol"},
	}
	if diff := cmp.Diff(want, d.Users()); diff != "" {
		t.Error(diff)
	}
	for _, u := range want {
		got, ok := d.User(u.Name)
		if !ok || !cmp.Equal(u, got) {
			t.Errorf("user %s: %v", u.Name, got)
		}
	}
	if _, ok := d.User("dave"); ok {
		t.Error("dave is there")
	}
	for key, owner := range map[string]string{edKey(1): "bob", edKey(2): "bob", skKey(3): "alice", edKey(4): ""} {
		got, ok := d.Owner(parseKey(t, key))
		if got.Name != owner || ok != (owner != "") {
			t.Errorf("owner %q, want %q", got.Name, owner)
		}
	}
	if keys := d.Keys("bob"); len(keys) != 2 || statement.MarshalKey(keys[0]) != edKey(1) || d.Keys("dave") != nil {
		t.Errorf("keys of bob: %v", keys)
	}
	for name, want := range map[string]bool{"alice": true, "bob": false, "carol": false, "dave": true} {
		if got := d.PinRequired(name); got != want {
			t.Errorf("PIN of %s required: %v", name, got)
		}
	}
	for group, want := range map[string][]string{"dev": {"alice", "bob"}, "sre": {"bob"}, "none": nil} {
		if diff := cmp.Diff(want, d.Members(group)); diff != "" {
			t.Errorf("members of %s: %s", group, diff)
		}
	}
	sum := sha256.Sum256([]byte(example))
	if d.Digest() != "sha256:"+hex.EncodeToString(sum[:]) || string(d.Data()) != example {
		t.Errorf("digest %s", d.Digest())
	}
	const namespaces = ` namespaces="request@hallpass,decision@hallpass,release@hallpass,revoke@hallpass,cancel@hallpass,review@hallpass,lock@hallpass,delegation@hallpass,host@hallpass" `
	signers := "alice" + namespaces + skKey(3) + "\nbob" + namespaces + edKey(1) + "\nbob" + namespaces + edKey(2) + "\n"
	if diff := cmp.Diff(signers, string(d.AllowedSigners())); diff != "" {
		t.Error(diff)
	}
}

// What the directory hands out is the caller's; the directory stays as it is.
func TestDirectoryIsNotChangedFromOutside(t *testing.T) {
	data := []byte(example)
	d, err := Parse("directory.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	clear(data)
	clear(d.Data())
	u, _ := d.User("bob")
	u.Groups[0] = "root"
	d.Users()[1].Groups[0] = "root"
	d.Members("dev")[0] = "mallory"
	d.Keys("bob")[0] = nil
	o, _ := d.Owner(parseKey(t, edKey(1)))
	o.Groups[0] = "root"
	again, err := Parse("directory.yaml", d.Data())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(again.Users(), d.Users()); diff != "" {
		t.Error(diff)
	}
	if !bytes.Equal(again.AllowedSigners(), d.AllowedSigners()) || d.Members("dev")[0] != "alice" || d.Digest() != again.Digest() {
		t.Error("changed")
	}
}

func TestParseRefuses(t *testing.T) {
	user := func(name, keys string) string { return "  " + name + ": {keys: [" + keys + "]}\n" }
	rsa := "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ" + strings.Repeat("A", 341) + "B"
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", "1:1: file is empty"},
		{"no users", "groups: {}\n", `1:1: unknown field "groups"`},
		{"users of nothing", "users:\n", "1:8: value is missing; it has to be a mapping (name: value)"},
		{"list of users", "users: [alice]\n", "1:8: this is a list; it has to be a mapping (name: value)"},
		{"other spelling", "Users: {}\n", `1:1: unknown field "Users"`},
		{"user twice", "users:\n" + user("alice", edKey(1)) + user("bob", edKey(2)) + user("alice", edKey(3)), `4:3: "alice" is already there, in line 2`},
		{"users twice", "users: {}\nusers: {}\n", `2:1: "users" is already there, in line 1`},
		{"bad name", "users:\n  Alice: {}\n", `2:3: user "Alice" has a character outside a-z 0-9 . _ @ + -`},
		{"name of 64", "users:\n  " + strings.Repeat("a", 64) + ": {}\n", "2:3: user is longer than 63 bytes"},
		{"name is a number", "users:\n  1: {}\n", "2:3: 1 is not text for YAML; write it in quotes"},
		{"nobody behind name", "users:\n  alice:\n", "2:10: value is missing; it has to be a mapping (name: value)"},
		{"unknown field", "users:\n  alice:\n    group: [dev]\n", `3:5: unknown field "group"`},
		{"group twice", "users:\n  alice: {groups: [a, b, a]}\n", `2:26: "a" is there twice`},
		{"bad group", "users:\n  alice: {groups: [a, B]}\n", `2:23: group "B" has a character outside a-z 0-9 . _ @ + -`},
		{"group for groups", "users:\n  alice: {groups: dev}\n", "2:19: this has to be a list"},
		{"pin wished", "users:\n  alice: {pin: maybe}\n", `2:16: pin can only be "required"; leave it out otherwise`},
		{"pin true", "users:\n  alice: {pin: true}\n", "2:16: true is not text for YAML; write it in quotes"},
		{"pin with another key", "users:\n  alice:\n    keys: [" + edKey(1) + "]\n    pin: required\n",
			"3:12: alice has to sign with a PIN, which only a FIDO key (sk-…) can prove; this is ssh-ed25519"},
		{"one key, two users", "users:\n" + user("alice", edKey(1)) + user("bob", edKey(2)+", "+edKey(1)+" mine"),
			"3:98: key of bob belongs to alice already, in line 2; a key can have one owner only"},
		{"one key twice", "users:\n" + user("alice", edKey(1)+", "+edKey(1)+" again"), "2:100: alice has this key twice, already in line 2"},
		{"rubbish for key", "users:\n" + user("alice", "x y"), `2:18: public key "x y" is not of the form "type base64"`},
		{"options before key", "users:\n" + user("alice", `'cert-authority `+edKey(1)+`'`), `2:18: public key "cert-authority ssh-ed25519" is not of the form "type base64"`},
		{"short RSA key", "users:\n" + user("alice", rsa), "2:18: RSA key has 1 bits, not 3072 to 8192"},
		{"empty key", "users:\n" + user("alice", `""`), `2:18: public key "" is not of the form "type base64"`},
		{"comment of 201", "users:\n" + user("alice", edKey(1)+" "+strings.Repeat("x", 201)), "2:18: key comment is longer than 200 bytes"},
		{"escape in comment", "users:\n" + user("alice", `"`+edKey(1)+` \e[31m"`), "2:18: key comment contains the control or invisible character U+001B"},
		{"alias", "users:\n  alice: &a {groups: [dev]}\n  bob: *a\n", "2:10: anchors and aliases are not supported"},
		{"merge", "users:\n  bob:\n    <<: {groups: [dev]}\n", `3:5: "<<" is not supported`},
		{"too long", strings.Repeat("#", yamlfile.MaxSize+1), "1:1: file is longer than 4194304 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Parse("directory.yaml", []byte(tt.in))
			if want := "directory.yaml:" + tt.want; err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Fatalf("got  %v\nwant %s", err, want)
			}
			if d != nil || access.CodeOf(err) != access.CodeMalformed {
				t.Errorf("%v, code %q", d, access.CodeOf(err))
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	for name, in := range map[string]string{
		"nobody":         "users: {}\n",
		"name of 63":     "users:\n  " + strings.Repeat("a", 63) + ": {}\n",
		"pin first":      "users:\n  alice: {pin: required, keys: [" + skKey(1) + "]}\n",
		"no keys":        "users:\n  alice: {keys: [], groups: []}\n",
		"comment of 200": "users:\n  alice: {keys: [" + edKey(1) + " " + strings.Repeat("x", 200) + "]}\n",
		"mail address":   "users:\n  alice@example.com: {groups: [team+a]}\n",
	} {
		if _, err := Parse("directory.yaml", []byte(in)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The example in the specification is a real one.
func TestSpecExample(t *testing.T) {
	spec, err := os.ReadFile("../docs/spec/directory-and-catalog.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(spec), "## directory.yaml\n\n```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no example")
	}
	d, err := Parse("directory.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Users()) != 3 || !d.PinRequired("bob") || len(d.Keys("alice")) != 1 {
		t.Errorf("%+v", d.Users())
	}
}

// FuzzParse holds that an accepted file means the same read again, that no key
// has two owners, and that every refusal has a place.
func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("users: {}"))
	f.Add([]byte("users:\n  alice:\n    groups: [dev]\n"))
	f.Add([]byte("users: {a: {keys: [" + edKey(1) + "]}, b: {keys: [" + edKey(1) + "]}}"))
	f.Add([]byte("users: &a {alice: *a}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse("directory.yaml", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "directory.yaml:") || access.CheckText("", err.Error(), 2000) != nil {
				t.Errorf("error %q", err)
			}
			return
		}
		for _, u := range d.Users() {
			for _, k := range d.Keys(u.Name) {
				if o, ok := d.Owner(k); !ok || o.Name != u.Name {
					t.Errorf("key of %s belongs to %s", u.Name, o.Name)
				}
			}
		}
		again, err := Parse("directory.yaml", d.Data())
		if err != nil || !bytes.Equal(again.AllowedSigners(), d.AllowedSigners()) {
			t.Errorf("read again: %v", err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprintf("%d users", n), func(b *testing.B) {
			var s strings.Builder
			s.WriteString("users:\n")
			for i := range n {
				fmt.Fprintf(&s, "  user%d:\n    groups: [dev]\n    keys:\n      - %s user%d@laptop\n", i, edKey(i), i)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse("directory.yaml", []byte(s.String())); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOwner(b *testing.B) {
	d, err := Parse("directory.yaml", []byte(example))
	if err != nil {
		b.Fatal(err)
	}
	k, err := statement.ParseKey(edKey(2))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := d.Owner(k); !ok {
			b.Fatal("no owner")
		}
	}
}
