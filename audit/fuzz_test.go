package audit

import (
	"bytes"
	"encoding/base64"
	"fmt"
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
	f.Fuzz(func(t *testing.T, leaf []byte) {
		e, err := ParseEvent(leaf)
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
