package sealed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

func newKey(t testing.TB) (key, recipient string) {
	t.Helper()
	key, recipient, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key, recipient
}

func example() Secret {
	return Secret{
		Request:       "019ef0b2-6d00-7a3c-9b51-2f64c8d0e7a1",
		WrappingToken: "hvs.CAESIExample",
		Reads: []Read{
			{Action: "read", Path: "database/creds/orders-ro"},
			{Action: "dump", Path: "kubernetes/creds/dump", With: map[string]string{"kubernetes_namespace": "a<b&c", "ttl": "1h"}},
			{Action: "check-out", Path: "ldap/library/ops/check-out", With: map[string]string{}},
		},
	}
}

func TestSealAndOpen(t *testing.T) {
	key, recipient := newKey(t)
	text, err := Seal(recipient, example())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text, "-----BEGIN AGE ENCRYPTED FILE-----\n") || strings.Contains(text, "hvs.") {
		t.Errorf("sealed:\n%s", text)
	}
	got, err := Open(key, text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example(), got); diff != "" {
		t.Error(diff)
	}
	again, err := Seal(recipient, example())
	if err != nil || again == text {
		t.Errorf("sealing again gives the same text: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	key, recipient := newKey(t)
	otherKey, _ := newKey(t)
	text, err := Seal(recipient, example())
	if err != nil {
		t.Fatal(err)
	}
	// in seals any bytes.
	in := func(plain string) string {
		r, err := age.ParseX25519Recipient(recipient)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		a := armor.NewWriter(&b)
		w, err := age.Encrypt(a, r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(plain)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	good, err := encode(example())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(text, "\n")
	flipped := func(n int) string { // one letter of a line
		l := []byte(lines[n])
		l[10] ^= 1
		return strings.Join(lines[:n], "") + string(l) + strings.Join(lines[n+1:], "")
	}
	with := func(old, new string) string { return in(strings.Replace(string(good), old, new, 1)) }
	const notOurs = "malformed: what is sealed is not in the form that the issuer writes"
	const changed = "unverified: the sealed secret was changed on its way, or is damaged"
	for _, tt := range []struct{ name, key, text, want string }{
		{"as it is", key, in(string(good)), ""},
		{"another key", otherKey, text, "mismatch: the sealed secret is for another key"},
		{"no key", "", text, "malformed: the key is not an age X25519 key"},
		{"recipient as key", recipient, text, "malformed: the key is not an age X25519 key"},
		{"nothing", key, "", "malformed: this is not a sealed secret: it is not an armored age file"},
		{"other text", key, "hvs.CAESI", "malformed: this is not a sealed secret: it is not an armored age file"},
		{"too long", key, text + strings.Repeat("\n", MaxText), "malformed: the sealed secret is longer than 131072 bytes"},
		{"something behind", key, text + "x", changed},
		{"changed near the end", key, flipped(len(lines) - 4), changed},
		{"cut off", key, strings.Join(append(lines[:len(lines)-4:len(lines)-4], lines[len(lines)-2:]...), ""), changed},
		{"unknown field", key, with(`{"request"`, `{"admin":"x","request"`), notOurs},
		{"a field twice", key, with(`{"request"`, `{"request":"x","request"`), notOurs},
		{"upper case", key, with(`"request"`, `"Request"`), notOurs},
		{"white space", key, with(`{"request"`, `{ "request"`), notOurs},
		{"something behind the object", key, in(string(good) + "\n"), notOurs},
		{"not JSON", key, in("hvs.CAESI"), notOurs},
		{"nothing sealed", key, in(""), notOurs},
		{"too much sealed", key, in(string(good) + strings.Repeat(" ", maxPlain)), notOurs},
		{"no request", key, with(`019ef0b2-6d00-7a3c-9b51-2f64c8d0e7a1`, ``), "malformed: the secret names no request"},
		{"no token", key, with(`hvs.CAESIExample`, ``), "malformed: the secret has no wrapping token"},
		{"line in the token", key, with(`hvs.CAESIExample`, `hvs.\nx`), "malformed: the secret has no wrapping token"},
		{"no reads", key, in(`{"request":"r","wrapping_token":"t","reads":[]}`), "malformed: the secret has 0 reads, not 1 to 16"},
		{"path that leads out", key, with(`database/creds`, `database/..`), `malformed: path ".." is not a path: it has to be names with one slash between, such as database/creds`},
		{"pattern", key, with(`database/creds`, `database/*`), `malformed: path "*" has a character outside a-z A-Z 0-9 . _ -`},
		{"action twice", key, with(`"dump"`, `"read"`), "malformed: action read is in the secret twice"},
		{"bad action", key, with(`"dump"`, `"Dump"`), `malformed: action "Dump" has a character outside a-z 0-9 . _ @ + -`},
		{"bad parameter", key, with(`"ttl"`, `"t-l"`), `malformed: parameter "t-l" has a character outside a-z 0-9 _`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Open(tt.key, tt.text)
			var said string
			if err != nil {
				said = fmt.Sprintf("%s: %v", access.CodeOf(err), err)
			}
			if said != tt.want {
				t.Errorf("got  %s\nwant %s", said, tt.want)
			}
			if err != nil && !cmp.Equal(got, Secret{}) {
				t.Error("an error with a secret")
			}
		})
	}
}

// Whatever single byte is changed, the secret isn't opened. (Some bytes of the
// armor are free: the line ends.)
func TestEveryChangeIsNoticed(t *testing.T) {
	key, recipient := newKey(t)
	text, err := Seal(recipient, example())
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		if text[i] == '\n' {
			continue
		}
		b := []byte(text)
		b[i] ^= 1
		if _, err := Open(key, string(b)); err == nil {
			t.Errorf("byte %d, %q, can be changed", i, text[i])
		}
	}
}

func TestRecipients(t *testing.T) {
	key, recipient := newKey(t)
	const bad = "recipient is not an age X25519 recipient"
	for _, tt := range []struct{ name, recipient, want string }{
		{"good", recipient, ""},
		{"wrong checksum", recipient[:len(recipient)-1] + map[bool]string{true: "p", false: "q"}[strings.HasSuffix(recipient, "q")], bad},
		{"the key", key, bad},
		{"empty", "", bad},
		// The point of order 1, in whose shared secrets there is nothing secret.
		{"a point of low order", "age1" + strings.Repeat("q", 52) + "5cu47z", bad},
		{"an SSH key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHI/qop39myU3Fwuik/mpu2TQGxD665MO/ztq5JVznqB", bad},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, sealing := Seal(tt.recipient, example())
			for _, err := range []error{CheckRecipient(tt.recipient), sealing} {
				var said string
				if err != nil {
					said = err.Error()
				}
				if said != tt.want || said != "" && access.CodeOf(err) != access.CodeMalformed {
					t.Errorf("got %q (%s), want %q", said, access.CodeOf(err), tt.want)
				}
			}
		})
	}
}

// A secret that falls into a log line isn't in it.
func TestSecretIsNotPrinted(t *testing.T) {
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("opened", "secret", example())
	for _, text := range []string{fmt.Sprint(example()), fmt.Sprintf("%+v", example()), fmt.Sprintf("%#v", example()), fmt.Sprintf("%q", example()), log.String()} {
		if strings.Contains(text, "hvs.") {
			t.Error(text)
		}
	}
	data, err := json.Marshal(example())
	if err != nil || !strings.Contains(string(data), `"with":{}`) {
		t.Errorf("a write without parameters became a read: %s, %v", data, err)
	}
}

func FuzzOpen(f *testing.F) {
	key, recipient := newKey(f)
	text, err := Seal(recipient, example())
	if err != nil {
		f.Fatal(err)
	}
	plain, err := encode(example())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, plain)
	f.Fuzz(func(t *testing.T, text string, plain []byte) {
		_, _ = Open(key, text)
		var s Secret
		if decode(plain, &s) == nil && s.check() == nil {
			again, err := encode(s)
			if err != nil || !bytes.Equal(plain, again) {
				t.Errorf("read %q, writes %q, %v", plain, again, err)
			}
		}
	})
}
