package audit

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/ca/krl"
	"hallpass/evidence"
)

const extendPolicy = `rules:
  - name: web
    when: resource.kind == "ssh" && "dev" in requester.groups
    max_duration: 30m
    total: 1h
    approvals: none
`

// first takes a request to its credential, which runs for half an hour.
func (w *world) first() access.Request {
	w.t.Helper()
	r, st := w.ask("alice")
	w.grant(r, access.Evidence{Request: st})
	return r
}

// longer is evidence for half an hour more, and the handle that may be had for
// it, after some time.
func (w *world) longer(of access.Request, after time.Duration) (access.Evidence, access.Handle) {
	w.t.Helper()
	w.now = w.now.Add(after)
	r, _ := w.request("alice")
	r.Extends = of.ID
	ev := access.Evidence{Request: w.sign("alice", r)}
	was, found, err := w.log.Entry(context.Background(), of.ID)
	if err != nil || !found {
		w.t.Fatal(found, err)
	}
	h := w.handle(r)
	h.Extends, h.NotAfter = of.ID, was.Handle.NotAfter.Add(30*time.Minute)
	return ev, h
}

// extended issues an extension on a handle that was reserved by reserve.
func (w *world) extended(ev access.Evidence, h access.Handle, reserve func(hash string, h access.Handle, e Event) error) {
	w.t.Helper()
	x, found, err := w.log.Extended(context.Background(), h.Extends)
	if err != nil || !found {
		w.t.Fatal(found, err)
	}
	standing, err := w.book.Judge(ev, w.now, evidence.Known{Extends: &x})
	if err != nil {
		w.t.Fatal(err)
	}
	e := Event{Ruling: &standing.Ruling, Requester: "alice", Resource: standing.Request.Resource}
	if err := reserve(ev.Request.Hash(), h, e); err != nil {
		w.t.Fatal(err)
	}
	spec := w.spec(standing.Request, h)
	spec.Extends = h.Extends
	e.Evidence = &ev
	if err := w.log.Issued(context.Background(), w.certificate(h, spec), e); err != nil {
		w.t.Fatal(err)
	}
}

// An extension gets its serial with its place in the ledger, and what is on record of the
// grant that it extends has the same one. What is refused spends none.
func TestExtensionHasItsSerial(t *testing.T) {
	w := newWorld(t)
	w.rulebook(extendPolicy)
	ctx := context.Background()
	first := w.first()
	event := Event{Digests: w.digests(), Requester: "alice", Resource: "ssh/web-1"}
	// Refused after all else was looked at, it leaves nothing.
	odd := *w.digests()
	odd.Policy = "sha256:00"
	ev, h := w.longer(first, time.Minute)
	h.Serial = krl.Serial(7, 0)
	if _, err := w.log.Reserve(ctx, ev.Request.Hash(), h, Event{Digests: &odd, Requester: "alice", Resource: "ssh/web-1"}); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("by a policy that isn't on record: %v", err)
	}
	if _, err := w.log.Reserve(ctx, ev.Request.Hash(), h, Event{Type: CredentialPrepared, Time: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), Digests: w.digests(), Requester: "alice", Resource: "ssh/web-1"}); access.CodeOf(err) != access.CodeMalformed {
		t.Errorf("at a time that can't be: %v", err)
	}
	if x, _, err := w.log.Extended(ctx, first.ID); err != nil || x.By != "" {
		t.Errorf("what was refused extends it: %+v, %v", x, err)
	}
	for i := range 2 {
		ev, h := w.longer(first, time.Minute)
		h.Serial = krl.Serial(7, 0)
		entry, err := w.log.Reserve(ctx, ev.Request.Hash(), h, event)
		if i > 0 {
			if access.CodeOf(err) != access.CodeDenied {
				t.Errorf("extended twice: %v", err)
			}
			break
		}
		if err != nil || entry.Handle.Serial != krl.Serial(7, 1) {
			t.Fatalf("the handle is %+v, %v", entry.Handle, err)
		}
		for rec, err := range w.log.Events(ctx, Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			e := rec.Event
			if e.Type != GrantExtended && (e.Type != CredentialPrepared || e.Request != h.Request) {
				continue
			}
			if diff := cmp.Diff(entry.Handle, e.Handle); diff != "" {
				t.Errorf("%s has another handle than the ledger (-ledger +event):\n%s", e.Type, diff)
			}
		}
	}
	if n, err := w.log.NextSerial(ctx, w.ca.Fingerprint(), 7); err != nil || n != krl.Serial(7, 2) {
		t.Errorf("the next serial is %d, %v", n, err)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
}

// A grant is said to be extended by the handle that was prepared, and by no other.
func TestExtendedByAnotherHandle(t *testing.T) {
	w := newWorld(t)
	w.rulebook(extendPolicy)
	ev, h := w.longer(w.first(), 20*time.Minute)
	other := h
	other.Serial++
	w.extended(ev, h, func(hash string, h access.Handle, e Event) error {
		return w.past(func(x Extended) *Extended { return &x }, other)(hash, h, e)
	})
	report := w.verify(VerifyOptions{})
	wantProblem(t, report, report.Size-2, "it has another handle than request "+h.Extends+" was extended by")
}

func (w *world) take(hash string, h access.Handle, e Event) error {
	_, err := w.log.Reserve(context.Background(), hash, h, e)
	return err
}

// past takes a handle for an extension into the ledger whatever speaks against
// it, with what said makes of what is extended; on record there may be another handle.
func (w *world) past(said func(Extended) *Extended, other ...access.Handle) func(hash string, h access.Handle, e Event) error {
	return func(hash string, h access.Handle, e Event) error {
		by := append(other, h)[0]
		_, err := update(context.Background(), w.log, func(t *tx) (struct{}, error) {
			was, _, err := t.entry(h.Extends)
			if err != nil {
				return struct{}{}, err
			}
			begin, _, err := beginning(was, t.entry)
			if err != nil {
				return struct{}{}, err
			}
			if _, err := t.append(Event{Type: GrantExtended, Request: h.Extends, RequestHash: was.RequestHash, Step: extendedStep, Handle: &by}); err != nil {
				return struct{}{}, err
			}
			e.Type, e.Request, e.RequestHash, e.Step, e.Handle = CredentialPrepared, h.Request, hash, CredentialPrepared, &h
			e.Extended = said(Extended{Begin: begin, End: was.Handle.NotAfter})
			if _, err := t.append(e); err != nil {
				return struct{}{}, err
			}
			return struct{}{}, t.put(Entry{Request: h.Request, RequestHash: hash, Handle: &h})
		})
		return err
	}
}

// checkProof proves a request and checks that.
func (w *world) checkProof(request string) Report {
	w.t.Helper()
	proof, err := w.log.Prove(context.Background(), request)
	if err != nil {
		w.t.Fatal(err)
	}
	data, err := json.Marshal(proof)
	if err != nil {
		w.t.Fatal(err)
	}
	report, err := CheckProof(data, w.public)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

// A proof of an extension knows what it extends: how long that has been is
// counted, to the second of what policy allows, and its own end is checked.
func TestProofOfAnExtension(t *testing.T) {
	const longer = "the credential lives until"
	for _, row := range []struct {
		name string
		more time.Duration // than it may have
		want string        // "" verifies
	}{
		{"as long as it may be", 0, ""},
		{"a second longer", time.Second, longer},
		{"a lot longer", 20 * time.Minute, longer},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.rulebook(extendPolicy)
			ev, h := w.longer(w.first(), 20*time.Minute)
			h.NotAfter = h.NotAfter.Add(row.more)
			w.extended(ev, h, w.take)
			for what, report := range map[string]Report{"proof": w.checkProof(h.Request), "log": w.verify(VerifyOptions{})} {
				if row.want == "" {
					if !report.OK {
						t.Errorf("%s: %v", what, report.Problems)
					}
				} else if report.OK || !strings.Contains(report.Problems[0].What, row.want) {
					t.Errorf("%s: %v, want %s", what, report.Problems, row.want)
				}
			}
		})
	}
}

// What a prepared extension says of what it extends is what the events say of
// that; and a proof takes none that says nothing.
func TestExtensionSaysWhatItExtends(t *testing.T) {
	for _, row := range []struct {
		name       string
		said       func(Extended) *Extended
		log, proof string // what is found; "" is nothing
	}{
		{"the truth", func(x Extended) *Extended { return &x }, "", ""},
		{"nothing, as before there was a place for it", func(Extended) *Extended { return nil }, "", "it doesn't say when the grant that it extends begins and ends"},
		{"a later end", func(x Extended) *Extended { x.End = x.End.Add(time.Minute); return &x }, "it says that what it extends", "1h1m in all is longer"},
		{"a later beginning", func(x Extended) *Extended { x.Begin = x.Begin.Add(time.Minute); return &x }, "it says that what it extends", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.rulebook(extendPolicy)
			ev, h := w.longer(w.first(), 20*time.Minute)
			w.extended(ev, h, w.past(row.said))
			for what, c := range map[string]struct {
				report Report
				want   string
			}{"log": {w.verify(VerifyOptions{}), row.log}, "proof": {w.checkProof(h.Request), row.proof}} {
				if c.want == "" {
					if !c.report.OK {
						t.Errorf("%s: %v", what, c.report.Problems)
					}
				} else if c.report.OK || !strings.Contains(c.report.Problems[0].What, c.want) {
					t.Errorf("%s: %v, want %s", what, c.report.Problems, c.want)
				}
			}
		})
	}
}

// An extension that was prepared and has ended without a credential is none:
// it bars no other one. One that had its credential does, also once it is over.
func TestUnissuedExtensionBarsNoOther(t *testing.T) {
	w := newWorld(t)
	w.rulebook(extendPolicy)
	ctx := context.Background()
	first := w.first()
	by := func(want string) {
		t.Helper()
		if x, found, err := w.log.Extended(ctx, first.ID); err != nil || !found || x.By != want {
			t.Fatalf("it is extended by %q (%t, %v), want %q", x.By, found, err, want)
		}
	}
	prepare := func() (access.Evidence, access.Handle, error) {
		ev, h := w.longer(first, time.Minute)
		return ev, h, w.take(ev.Request.Hash(), h, Event{Digests: w.digests(), Requester: "alice", Resource: "ssh/web-1"})
	}
	for _, state := range []access.State{access.StateDenied, access.StateCancelled} {
		_, h, err := prepare()
		if err != nil {
			t.Fatal(err)
		}
		by(h.Request)
		if _, _, err := prepare(); access.CodeOf(err) != access.CodeDenied || !strings.Contains(err.Error(), "was extended before, by request "+h.Request) {
			t.Errorf("while that one is open: %v", err)
		}
		w.end(End{Request: h.Request, State: state})
		by("")
	}
	ev, h, err := prepare()
	if err != nil {
		t.Fatal(err)
	}
	w.extended(ev, h, func(string, access.Handle, Event) error { return nil })
	by(h.Request)
	w.end(End{Request: h.Request, State: access.StateExpired})
	by(h.Request)
	if _, _, err := prepare(); access.CodeOf(err) != access.CodeDenied {
		t.Errorf("extended once more: %v", err)
	}
	for what, report := range map[string]Report{"log": w.verify(VerifyOptions{}), "proof": w.checkProof(h.Request), "proof of the first": w.checkProof(first.ID)} {
		if !report.OK {
			t.Errorf("%s: %v", what, report.Problems)
		}
	}
	// What ends the first one ends what extends it, whichever that is.
	if row, err := w.log.Row(ctx, first.ID); err != nil || len(row) != 3 {
		t.Errorf("the row has %d handles, %v", len(row), err)
	}
}

// Whoever has a certificate learns which one extends its grant, once that one is
// out and for as long as it isn't taken back. Who hasn't, doesn't.
func TestExtension(t *testing.T) {
	w := newWorld(t)
	w.rulebook(extendPolicy)
	ctx := context.Background()
	first := w.first()
	parse := func(request string) *ssh.Certificate {
		t.Helper()
		entry, _, err := w.log.Entry(ctx, request)
		if err != nil || entry.Credential == nil {
			t.Fatal(err)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(entry.Credential.Certificate))
		if err != nil {
			t.Fatal(err)
		}
		return key.(*ssh.Certificate)
	}
	cert := parse(first.ID)
	want := func(what, request string, of *ssh.Certificate) {
		t.Helper()
		text := ""
		if request != "" {
			text = ca.Marshal(parse(request))
		}
		if got, err := w.log.Extension(ctx, of); err != nil || got != text {
			t.Errorf("%s: extended by %q, %v", what, got, err)
		}
	}
	want("nothing extends it", "", cert)
	ev, h := w.longer(first, time.Minute)
	event := Event{Digests: w.digests(), Requester: "alice", Resource: "ssh/web-1"}
	if err := w.take(ev.Request.Hash(), h, event); err != nil {
		t.Fatal(err)
	}
	want("prepared, and not out", "", cert)
	w.end(End{Request: h.Request, State: access.StateCancelled})
	want("prepared, and never out", "", cert)
	ev, h = w.longer(first, time.Minute)
	w.extended(ev, h, w.take)
	want("it is out", h.Request, cert)
	want("of the extension itself", "", parse(h.Request))

	guessed := *cert
	guessed.Nonce = make([]byte, len(cert.Nonce))
	want("by whoever hasn't the certificate", "", &guessed)
	unknown := *cert
	unknown.KeyId = "hallpass:01900000-0000-7000-8000-000000000098:alice"
	want("of a request that there isn't", "", &unknown)
	foreign := *cert
	foreign.KeyId = "somebody else's"
	want("of another CA's certificate", "", &foreign)

	w.end(End{Request: first.ID, State: access.StateReleased})
	want("given back", "", cert)
}

// A second extension beside one that had its credential is found.
func TestVerifyExtendedTwice(t *testing.T) {
	w := newWorld(t)
	w.rulebook(extendPolicy)
	first := w.first()
	ev, h := w.longer(first, 20*time.Minute)
	w.extended(ev, h, w.take)
	w.end(End{Request: h.Request, State: access.StateExpired})
	other := h
	other.Request = "01900000-0000-7000-8000-000000000099"
	w.record(Event{Type: GrantExtended, Request: first.ID, Step: extendedStep + ":" + h.Request, Handle: &other})
	report := w.verify(VerifyOptions{})
	wantProblem(t, report, report.Size-1, "the request had no grant that "+other.Request+" could extend")
}

// What was over can't be extended, nor can the last of a row that is long enough:
// not by an issuer that forgets to look, either.
func TestVerifyKnowsWhatCanBeExtended(t *testing.T) {
	truth := func(x Extended) *Extended { return &x }
	w := newWorld(t)
	w.rulebook(extendPolicy)
	first := w.first()
	ev, h := w.longer(first, 30*time.Minute-3*time.Second)
	h.NotAfter = h.NotBefore.Add(2 * time.Second)
	w.extended(ev, h, w.past(truth)) // a second is left
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Fatal(report.Problems)
	}
	again := access.Request{Header: access.Header{ID: h.Request}}
	ev, h = w.longer(again, time.Second)
	h.NotAfter = h.NotBefore.Add(time.Minute)
	w.extended(ev, h, w.past(truth))
	report := w.verify(VerifyOptions{})
	prepared := report.Size - 2
	const want = "it extends what can't be extended: the grant of request "
	wantProblem(t, report, prepared, want+again.ID+" has ended at ")
	wantProblem(t, w.checkProof(h.Request), prepared, want+again.ID+" has ended at ")

	w = newWorld(t)
	w.rulebook(strings.Replace(extendPolicy, "total: 1h", "total: 30d", 1))
	last := w.first()
	for range access.MaxExtensions + 1 {
		ev, h := w.longer(last, 0)
		last = access.Request{Header: access.Header{ID: h.Request}}
		h.NotAfter = h.NotBefore.Add(30 * time.Minute)
		w.extended(ev, h, w.past(truth))
	}
	report = w.verify(VerifyOptions{})
	wantProblem(t, report, report.Size-2, want)
	if !strings.Contains(report.Problems[0].What, "is the last of a row of 100 extensions") {
		t.Error(report.Problems[0])
	}
}
