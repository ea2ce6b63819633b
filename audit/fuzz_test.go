package audit

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// FuzzParseEvent: what is taken is in the one form that the log writes.
func FuzzParseEvent(f *testing.F) {
	w := newWorld(f)
	w.live()
	for rec, err := range w.log.Events(f.Context(), Query{}) {
		if err != nil {
			f.Fatal(err)
		}
		f.Add(rec.Leaf)
	}
	f.Add([]byte(`{"v":1,"time":"2031-05-06T07:08:09Z","type":"request.ruled","Type":"request.ruled"}`))
	f.Add([]byte(allText))
	f.Fuzz(func(t *testing.T, leaf []byte) {
		e, err := ParseEvent(leaf)
		if same, no := parseJSON(leaf); !reflect.DeepEqual(e, same) || fmt.Sprint(err) != fmt.Sprint(no) {
			t.Errorf("%q is read as %+v (%v), and as %+v (%v)", leaf, e, err, same, no)
		}
		if err != nil {
			return
		}
		again, err := e.encode()
		if err != nil || !bytes.Equal(again, leaf) {
			t.Errorf("%q was read and written as %q (%v)", leaf, again, err)
		}
	})
}

// FuzzEncodeEvent: what Append writes can be read again, whatever is in it.
func FuzzEncodeEvent(f *testing.F) {
	for _, s := range odd {
		f.Add(s, s, s, int64(0))
	}
	f.Fuzz(func(t *testing.T, a, b, c string, offset int64) {
		e := Event{
			Type: StatementRefused, Request: a, Step: b, Actor: c, Why: a + b, Code: access.Code(c), State: access.State(a),
			Statement: &access.Statement{Payload: a, Signature: b}, Evidence: &access.Evidence{Request: access.Statement{Payload: c}},
			Ruling: &access.Ruling{Why: a, Rules: []string{b}, Needs: []access.Need{{Rule: c, Sets: []access.Set{{}}}}},
			Handle: &access.Handle{Kind: a, Principals: []string{b, c}, NotBefore: t0.Add(time.Duration(offset))},
			File:   &File{Content: a},
			Time:   t0.In(time.FixedZone("", int(offset%50000))),
		}
		if e.normalize(t0) != nil {
			return
		}
		leaf, err := e.encode()
		if err != nil {
			return
		}
		if _, err := ParseEvent(leaf); err != nil {
			t.Errorf("%q can't be read again: %v", leaf, err)
		}
	})
}

// FuzzOpenCheckpoint: what is signed is what is read.
func FuzzOpenCheckpoint(f *testing.F) {
	private, public := testKey(f)
	signer, _, err := parseKey(private)
	if err != nil {
		f.Fatal(err)
	}
	var empty tree
	msg, err := Checkpoint{signer.Name(), 0, empty.root()}.sign(signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg)
	f.Add([]byte("audit.example.com\n0\nAAAA\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := OpenCheckpoint(data, public)
		if err == nil && (c.Size != 0 || c.Root != empty.root() || !bytes.HasPrefix(data, []byte(c.text()))) {
			t.Errorf("%q was read as %+v", data, c)
		}
		if c, err := parseCheckpoint(string(data)); err == nil && c.text() != string(data) {
			t.Errorf("%q was read and written as %q", data, c.text())
		}
	})
}

// FuzzCheckProof: only the log's own events are ever taken for proven.
func FuzzCheckProof(f *testing.F) {
	w, p := proofOf(f)
	good := encodeProof(f, p)
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"index": 3`), []byte(`"index": 4`), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		report, err := CheckProof(data, w.public)
		if err == nil && report.OK && (report.Request != p.Request || report.Size != atAll) {
			t.Errorf("proven: %+v", report)
		}
	})
}

// FuzzParseWitness: a witness's key has one form, and its hash is of its name
// and key.
func FuzzParseWitness(f *testing.F) {
	const good = "witness.example.com/w1+4bffce98+BCO8VJEsHm6SxKhoJchn4n/9xVW/+9QkTxeiar//7pZd"
	if _, err := parseWitness(good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(strings.ToUpper(good))
	f.Add("a+b+c+d")
	f.Add("+00000000+BA==")
	f.Fuzz(func(t *testing.T, text string) {
		w, err := parseWitness(text)
		if err != nil {
			if access.CodeOf(err) != access.CodeMalformed || access.CheckText("error", err.Error(), 1000) != nil {
				t.Errorf("%q", err)
			}
			return
		}
		key := append([]byte{cosignatureType}, w.key...)
		if again := fmt.Sprintf("%s+%08x+%s", w.name, w.hash, base64.StdEncoding.EncodeToString(key)); !strings.EqualFold(again, text) {
			t.Errorf("%q is read as %q", text, again)
		}
	})
}

// FuzzKeys: what is taken for a key of the log signs, and its public half opens
// that and nothing by another key; what is refused is not shown, as it may be the
// private key.
func FuzzKeys(f *testing.F) {
	private, public := testKey(f)
	_, other := testKey(f)
	f.Add(private)
	f.Add(public)
	f.Add(private + "\n")
	f.Add("PRIVATE+KEY+a+00000000+AQ==")
	f.Add(strings.Replace(private, "audit", "other", 1))
	f.Add("a+b+c+d+e+f")
	f.Fuzz(func(t *testing.T, key string) {
		refused := func(err error) {
			if access.CodeOf(err) != access.CodeMalformed || access.CheckText("error", err.Error(), 200) != nil {
				t.Errorf("%q", err)
			}
			if secret := key[strings.LastIndex(key, "+")+1:]; len(secret) > 20 && strings.Contains(err.Error(), secret) {
				t.Errorf("the key is shown: %v", err)
			}
		}
		verifier, err := parsePublicKey(key)
		switch {
		case err != nil:
			refused(err)
		case strings.HasPrefix(key, "PRIVATE+KEY+"):
			t.Errorf("%q is taken for a public key", key)
		case !strings.HasPrefix(key, verifier.Name()+"+"+fmt.Sprintf("%08x", verifier.KeyHash())+"+"):
			t.Errorf("%q is read as %s+%08x", key, verifier.Name(), verifier.KeyHash())
		}
		signer, verifier, err := parseKey(key)
		if err != nil {
			refused(err)
			return
		}
		if signer.Name() != verifier.Name() || signer.KeyHash() != verifier.KeyHash() || !strings.HasPrefix(key, "PRIVATE+KEY+") {
			t.Errorf("%s+%08x signs, and %s+%08x verifies", signer.Name(), signer.KeyHash(), verifier.Name(), verifier.KeyHash())
		}
		message := []byte("a line\n")
		signature, err := signer.Sign(message)
		if err != nil || !verifier.Verify(message, signature) || verifier.Verify([]byte("another\n"), signature) {
			t.Errorf("what it signs doesn't verify, or too much does (%v)", err)
		}
		if stranger, err := parsePublicKey(other); err != nil || stranger.Verify(message, signature) {
			t.Errorf("the key of another log takes it (%v)", err)
		}
	})
}
