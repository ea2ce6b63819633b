package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/grant"
	"hallpass/workflows"
)

// cluster is what Temporal says of what runs.
type cluster struct {
	gone  []string
	down  func() bool
	asked []string
}

func (c *cluster) Running(_ context.Context, requests []string) (map[string]bool, error) {
	if c.down != nil && c.down() {
		return nil, errDown
	}
	c.asked = append(c.asked, requests...)
	runs := map[string]bool{}
	for _, id := range requests {
		runs[id] = !slices.Contains(c.gone, id)
	}
	return runs, nil
}

// looking is a kind that can look at what is open.
type looking struct {
	*lock
	stuck map[string]grant.Stuck
	down  func() bool
}

// Look goes through what is open two at a time, in the order of the ids.
func (l *looking) Look(_ context.Context, cursor string, live audit.Living, _ func() ([]access.Handle, error)) (grant.Sight, error) {
	if l.down != nil && l.down() {
		return grant.Sight{}, errDown
	}
	ids := l.living()
	slices.Sort(ids)
	sight := grant.Sight{Stuck: l.stuck}
	for _, id := range ids {
		if id <= cursor {
			continue
		}
		if sight.Looked == 2 {
			return sight, nil
		}
		sight.Looked++
		sight.Next = id
		if h := l.open[id]; !live.Has(h) {
			sight.Found = append(sight.Found, h)
		}
	}
	sight.Next = ""
	return sight, nil
}

// sweeps is a world in which a sweep can run.
func sweeps(t *testing.T) (*world, *cluster) {
	w, c := newWorld(t), &cluster{}
	w.env.RegisterWorkflow(workflows.Sweep)
	w.acts.Temporal, w.acts.Grace, w.issuer.Grace = c, time.Minute, time.Minute
	return w, c
}

// sweep runs a Sweep that begins that long after the world did.
func (w *world) sweep(later time.Duration, in access.Sweeping) access.Swept {
	w.t.Helper()
	w.env.SetStartTime(w.start.Add(later))
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: access.SweepNow, TaskQueue: access.TaskQueue})
	w.env.ExecuteWorkflow(workflows.Sweep, in)
	var out access.Swept
	if err := errors.Join(w.env.GetWorkflowError(), w.env.GetWorkflowResult(&out)); err != nil || !w.env.IsWorkflowCompleted() {
		w.t.Fatalf("completed: %t, %v", w.env.IsWorkflowCompleted(), err)
	}
	report, err := w.log.Verify(context.Background(), audit.VerifyOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range report.Problems { // the toy's credentials are no certificates
		if strings.HasPrefix(p.Type, "sweep.") || strings.Contains(p.What, "ledger") {
			w.t.Error(p)
		}
	}
	return out
}

func (w *world) sweepEvents() (all []string) {
	w.t.Helper()
	for rec, err := range w.log.Events(context.Background(), audit.Query{Type: "sweep."}) {
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, rec.Event.Type+" "+rec.Event.Request)
	}
	return all
}

// A grant whose workflow is gone is ended and taken back. What runs is left
// alone, and so is what has just been granted.
func TestSweepEndsOrphans(t *testing.T) {
	w, c := sweeps(t)
	ids := w.received(4, true)
	w.received(1, false)
	if _, err := w.log.End(context.Background(), audit.End{Request: ids[3], State: access.StateRevoked}); err != nil {
		t.Fatal(err)
	}
	delete(w.kind.open, ids[3])
	c.gone = []string{ids[1], ids[3]}
	out := w.sweep(2*time.Minute, access.Sweeping{})
	want := access.Swept{Grants: 3}
	want.Add(access.Finding{What: access.SweptEnded, Kind: "ssh", Request: ids[1], Why: "its workflow didn't run any more; revoked"})
	if fmt.Sprint(out) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", out, want)
	}
	w.wantStates(map[string]access.State{ids[0]: "", ids[1]: access.StateRevoked, ids[2]: "", ids[3]: access.StateRevoked})
	if open := w.kind.living(); len(open) != 2 || slices.Contains(open, ids[1]) {
		t.Errorf("open are %v", open)
	}
	if got := w.sweepEvents(); !slices.Equal(got, []string{"sweep.orphan " + ids[1]}) {
		t.Error(got)
	}
	if d := w.details(); !strings.Contains(d, "open grants looked at: 3, ended: 1") {
		t.Error(d)
	}
	if strings.Join(w.events, ", ") != "local Orphans, hallpass-issue-ssh Revoke, hallpass-issue-ssh Strays" {
		t.Errorf("it took %v", w.events)
	}
}

func (w *world) wantStates(states map[string]access.State) {
	w.t.Helper()
	for id, want := range states {
		entry, _, err := w.log.Entry(context.Background(), id)
		if err != nil || entry.Ended != want {
			w.t.Errorf("%s ended as %q, want %q (%v)", id, entry.Ended, want, err)
		}
	}
}

func TestSweepLeavesTheYoungAlone(t *testing.T) {
	w, c := sweeps(t)
	c.gone = w.received(2, true)
	if out := w.sweep(59*time.Second, access.Sweeping{}); out.Grants != 2 || out.Ended != 0 || len(c.asked) != 0 {
		t.Errorf("%+v, asked about %v", out, c.asked)
	}
	w.wantStates(map[string]access.State{c.gone[0]: "", c.gone[1]: ""})
}

// While Temporal can't be asked, nothing is concluded.
func TestSweepWithoutTemporal(t *testing.T) {
	w, c := sweeps(t)
	ids := w.received(2, true)
	c.gone = ids[:1]
	since := w.start.Add(20 * time.Minute)
	c.down = func() bool { return w.env.Now().Before(since) }
	w.at(10*time.Minute, func() { w.wantStates(map[string]access.State{ids[0]: "", ids[1]: ""}) })
	if out := w.sweep(2*time.Minute, access.Sweeping{}); out.Ended != 1 || out.Stuck != 0 {
		t.Errorf("%+v", out)
	}
	w.wantStates(map[string]access.State{ids[0]: access.StateRevoked, ids[1]: ""})
}

// A grant that has run to its end needs no issuer to be ended.
func TestSweepAfterTheEnd(t *testing.T) {
	w, c := sweeps(t)
	c.gone = w.received(1, true)
	w.kind.onRevoke = func() error { return errDown }
	if out := w.sweep(31*time.Minute, access.Sweeping{}); out.Ended != 1 || out.Stuck != 0 {
		t.Errorf("%+v", out)
	}
	w.wantStates(map[string]access.State{c.gone[0]: access.StateExpired})
}

// While sessions may finish, a grant isn't over: one that runs is left alone,
// one that doesn't is revoked, so that hosts end what is open. Afterwards it has
// run to its end.
func TestSweepInTheGrace(t *testing.T) {
	for _, test := range []struct {
		later time.Duration
		want  access.State
	}{{31 * time.Minute, access.StateRevoked}, {89 * time.Minute, access.StateRevoked}, {90 * time.Minute, access.StateExpired}} {
		t.Run(test.later.String(), func(t *testing.T) {
			w, c := sweeps(t)
			w.kind.grace = time.Hour
			ids := w.received(2, true)
			c.gone = ids[:1]
			revoked := 0
			w.kind.onRevoke = func() error { revoked++; return nil }
			if out := w.sweep(test.later, access.Sweeping{}); out.Grants != 2 || out.Ended != 1 || out.Stuck != 0 {
				t.Errorf("%+v", out)
			}
			w.wantStates(map[string]access.State{ids[0]: test.want, ids[1]: ""})
			if (revoked > 0) != (test.want == access.StateRevoked) {
				t.Errorf("the kind revoked %d times", revoked)
			}
		})
	}
}

// What can't be taken back is reported, doesn't hold the others up, and is
// found again.
func TestSweepStuck(t *testing.T) {
	w, c := sweeps(t)
	ids := w.received(3, true)
	c.gone = ids
	down := w.before(time.Hour)
	w.ledger.down = nil
	w.kind.onRevoke = func() error {
		if down() {
			return errDown
		}
		return nil
	}
	out := w.sweep(2*time.Minute, access.Sweeping{})
	if out.Ended != 0 || out.Stuck != 3 || !strings.Contains(out.Findings[0].Why, "could not be taken back: revoke the credential of request") {
		t.Errorf("%+v", out)
	}
	// They are barred all the same: the issuer ends before it revokes.
	for _, id := range ids {
		w.wantStates(map[string]access.State{id: access.StateRevoked})
	}
	if got := w.sweepEvents(); len(got) != 6 {
		t.Error(got)
	}
}

// An issuer that doesn't answer costs its own part of the sweep alone.
func TestSweepWithoutIssuer(t *testing.T) {
	w, c := sweeps(t)
	c.gone = w.received(1, true)
	delete(w.issuer.Kinds, "ssh")
	out := w.sweep(2*time.Minute, access.Sweeping{})
	if out.Ended != 0 || out.Stuck != 2 || out.Findings[1].Kind != "ssh" || out.Findings[1].Request != "" ||
		!strings.Contains(out.Findings[1].Why, "credentials could not be looked at: ") {
		t.Errorf("%+v", out)
	}
	again := w.sweepEvents()
	if want := []string{"sweep.orphan " + c.gone[0], "sweep.stuck " + c.gone[0], "sweep.stuck "}; !slices.Equal(again, want) {
		t.Errorf("%v, want %v", again, want)
	}
}

// What lives where the credentials do and has no grant is revoked: page by
// page, on record, and nothing else.
func TestSweepStrays(t *testing.T) {
	w, _ := sweeps(t)
	ids := w.received(5, true)
	for n, id := range ids { // the toy's handles differ
		h := w.kind.open[id]
		if n == 1 || n == 4 {
			h.Serial = uint64(100 + n)
		}
		w.kind.open[id] = h
	}
	young := access.Handle{Request: "young", Kind: "ssh", Serial: 7, NotBefore: w.start.Add(90 * time.Second), NotAfter: w.start.Add(time.Hour)}
	stranger := access.Handle{Request: "stranger", Kind: "ssh", Serial: 8, NotBefore: w.start, NotAfter: w.start.Add(time.Hour)}
	w.kind.open[young.Request], w.kind.open[stranger.Request] = young, stranger
	w.issuer.Kinds["ssh"] = &looking{lock: w.kind, stuck: map[string]grant.Stuck{"lease-1": {Why: "a lease is irrevocable"}, "new": {Since: w.start.Add(90 * time.Second)}}}
	out := w.sweep(2*time.Minute, access.Sweeping{})
	if out.Grants != 5 || out.Credentials != 7 || out.Revoked != 3 || out.Ended != 0 || out.Stuck != 4 {
		t.Errorf("%+v", out)
	}
	open := w.kind.living()
	slices.Sort(open)
	if want := []string{ids[0], ids[2], ids[3], "young"}; !slices.Equal(open, want) {
		t.Errorf("open are %v, want %v", open, want)
	}
	want := []string{
		"sweep.stray " + ids[1], "sweep.revoked " + ids[1], "sweep.stuck ",
		"sweep.stray " + ids[4], "sweep.revoked " + ids[4], "sweep.stray stranger", "sweep.revoked stranger",
	}
	if got := w.sweepEvents(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, id := range ids {
		w.wantStates(map[string]access.State{id: ""})
	}
}

// What is stuck and can be taken away is, and on record; what can't be is reported.
func TestSweepTakesAwayWhatIsStuck(t *testing.T) {
	w, _ := sweeps(t)
	var ended []string
	w.issuer.Kinds["ssh"] = &looking{lock: w.kind, stuck: map[string]grant.Stuck{
		"left":   {Why: "crashed", End: func(context.Context) error { ended = append(ended, "left"); return nil }},
		"firm":   {Why: "crashed", End: func(context.Context) error { return errDown }},
		"recent": {Why: "crashed", Since: w.start.Add(90 * time.Second), End: func(context.Context) error { ended = append(ended, "recent"); return nil }},
	}}
	out := w.sweep(2*time.Minute, access.Sweeping{})
	if out.Revoked != 1 || out.Stuck != 1 || !slices.Equal(ended, []string{"left"}) {
		t.Errorf("%+v, ended %v", out, ended)
	}
	if got := w.sweepEvents(); !slices.Equal(got, []string{"sweep.lease ", "sweep.stuck ", "sweep.lease "}) {
		t.Error(got)
	}
}

// A stray that can't be revoked is on record as such.
func TestSweepStrayStuck(t *testing.T) {
	w, _ := sweeps(t)
	w.kind.open["x"] = access.Handle{Request: "x", Kind: "ssh", Serial: 8, NotBefore: w.start}
	w.kind.onRevoke = func() error { return errDown }
	w.issuer.Kinds["ssh"] = &looking{lock: w.kind}
	if out := w.sweep(2*time.Minute, access.Sweeping{}); out.Revoked != 0 || out.Stuck != 1 || out.Findings[0].Request != "x" {
		t.Errorf("%+v", out)
	}
	if got := w.sweepEvents(); !slices.Equal(got, []string{"sweep.stray x", "sweep.stuck x"}) {
		t.Error(got)
	}
}

// Many are looked at page by page, and where the history gets long, another run
// goes on where this one is.
func TestSweepOfMany(t *testing.T) {
	w, c := sweeps(t)
	ids := w.received(210, true)
	c.gone = ids[190:]
	if out := w.sweep(2*time.Minute, access.Sweeping{}); out.Grants != 210 || out.Ended != 20 || len(out.Findings) != 20 || out.Stuck != 0 {
		t.Errorf("%+v", out)
	}
	if !slices.Equal(c.asked, ids) {
		t.Errorf("asked about %d", len(c.asked))
	}

	w, c = sweeps(t)
	ids = w.received(210, true)
	w.env.SetContinueAsNewSuggested(true)
	w.env.SetStartTime(w.start.Add(2 * time.Minute))
	w.env.ExecuteWorkflow(workflows.Sweep, access.Sweeping{})
	var next *workflow.ContinueAsNewError
	if err := w.env.GetWorkflowError(); !errors.As(err, &next) {
		t.Fatal(err)
	}
	var in access.Sweeping
	if err := converter.GetDefaultDataConverter().FromPayloads(next.Input, &in); err != nil || in.After != ids[199] || in.Ledger || in.Swept.Grants != 200 {
		t.Errorf("%+v, %v", in, err)
	}
	if len(c.asked) != 200 {
		t.Errorf("asked about %d", len(c.asked))
	}
}

var _ activities.Temporal = (*cluster)(nil)
