package topology

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/cli"
	"hallpass/worker"
)

const deployment = "hallpass"

// TestUpgrades replaces workers by others, in both ways that there are, and the
// SSH CA's key by another.
func TestUpgrades(t *testing.T) {
	w := furnish(t)
	w.furnishHosts()
	w.run("workflows-1", "workflows-2", "issuer-1", "issuer-2", "service")
	t.Run("rolling", w.rollingRestart)
	t.Run("rotation", w.rotation)
	t.Run("versioned", w.versionedUpgrade)
}

// versionedUpgrade goes from workers whose builds nobody tells apart to an old
// build, and from that to a new one. What began on the old build ends on it,
// approvals and all, while what is asked for meanwhile takes the new one, and
// back. When the old build is gone, what ended on it can still be shown.
func (w *world) versionedUpgrade(t *testing.T) {
	run := func(name, role string, env ...string) {
		w.hallpass(name, role, env...)
		w.start(name)
		w.ready(name)
	}
	versioned := func(build string) []string {
		return []string{"HALLPASS_TEMPORAL_DEPLOYMENT=" + deployment, "HALLPASS_TEMPORAL_BUILD=" + build}
	}
	before := w.asked(t) // on no build at all

	// The first build that is told apart: until it is the current one, it gets
	// nothing and says so, and the plain workers go on.
	run("old", worker.RoleWorkflows, versioned("old")...)
	w.says("old", "polls hallpass as build old of hallpass, which gets no requests before it is the current one")
	w.current("old")
	w.says("old", "as build old of hallpass, the current one")
	w.drain("workflows-1")
	w.drain("workflows-2")
	old := w.asked(t)
	w.builds(t, old, "old")

	run("new", worker.RoleWorkflows, versioned("new")...)
	still := w.asked(t) // the new build runs, and isn't the current one
	w.builds(t, still, "old")
	w.current("new")
	w.says("new", "as build new of hallpass, the current one")
	w.says("old", "as build old of hallpass, which gets no new requests and has old ones")
	fresh := w.asked(t)

	// All of them live on, each on its build, to the end. For as long as one of the
	// old build's does, it isn't told that it can go.
	for _, id := range []string{before, old, fresh} {
		w.lives(t, id)
	}
	w.stays("old", "as build old of hallpass, which gets no new requests and has old ones")
	w.lives(t, still)
	w.says("old", "as build old of hallpass, which has no requests any more and can go")
	w.builds(t, old, "old")
	w.builds(t, still, "old")
	w.builds(t, fresh, "new")
	// What began without a build goes on with the current one, and stays.
	w.builds(t, before, "", "old", "new")

	// Back again, to one that had been drained: what began on the new build stays there.
	stays := w.asked(t)
	w.builds(t, stays, "new")
	w.current("old")
	back := w.asked(t)
	w.lives(t, stays)
	w.lives(t, back)
	w.builds(t, stays, "new")
	w.builds(t, back, "old")

	// The old build is gone. What ended on it can be shown all the same, as
	// could be what was terminated from outside.
	dead := w.asked(t)
	w.builds(t, dead, "old")
	shown := w.show(t, back)
	if err := w.dial().TerminateWorkflow(t.Context(), access.WorkflowID(dead), "", "a test"); err != nil {
		t.Fatal(err)
	}
	w.current("new")
	w.says("old", "as build old of hallpass, which has no requests any more and can go")
	w.drain("old")
	if again := w.show(t, back); again != shown || !strings.Contains(again, `"state": "released"`) || !strings.Contains(again, `"signer": "bob"`) {
		t.Errorf("with a worker:\n%s\nwithout one:\n%s", shown, again)
	}
	began := time.Now()
	code, out, errs := w.as(t.Context(), "alice", "show", dead)
	if code == cli.ExitOK || !strings.Contains(errs, "was ended from outside: terminated") || !strings.Contains(out, "ssh/web-1") {
		t.Errorf("terminated: exit code %d, %s%s", code, out, errs)
	}
	if took := time.Since(began); took > 2*unnoticed {
		t.Errorf("it took %s to show what nobody can be asked about", took)
	}
	last := w.asked(t)
	w.lives(t, last)
	w.builds(t, last, "new")
}

// asked is a request that waits for its approval.
func (w *world) asked(t *testing.T) string {
	t.Helper()
	id, err := w.ask(t.Context(), alice, "ssh/web-1", visit)
	if err != nil {
		t.Fatal(err)
	}
	w.poll("the request to be ruled on", func() error {
		_, out, errs := w.as(t.Context(), "alice", "show", id, "--output", "json")
		var s access.Status
		if json.Unmarshal([]byte(out), &s) != nil || len(s.Standing.Missing) == 0 {
			return fmt.Errorf("%s%s", out, errs)
		}
		return nil
	})
	return id
}

// lives has a request approved, granted and given back.
func (w *world) lives(t *testing.T, id string) {
	t.Helper()
	if err := w.approve(t.Context(), alice, id); err != nil {
		t.Fatal(err)
	}
	if err := w.granted(t.Context(), alice, id); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := w.as(t.Context(), "alice", "release", id); code != cli.ExitOK {
		t.Fatalf("release: exit code %d: %s", code, errs)
	}
	w.poll("its end", func() error {
		if s := w.state(t.Context(), alice, id); s != access.StateReleased {
			return fmt.Errorf("request %s is %q", id, s)
		}
		return nil
	})
}

func (w *world) show(t *testing.T, id string) string {
	t.Helper()
	code, out, errs := w.as(t.Context(), "alice", "show", id, "--output", "json")
	if code != cli.ExitOK {
		t.Fatalf("show: exit code %d: %s", code, errs)
	}
	return out
}

// current does what temporal worker deployment set-current-version does.
func (w *world) current(build string) {
	w.t.Helper()
	h := w.dial().WorkerDeploymentClient().GetHandle(deployment)
	w.poll(build+" to be the current build", func() error {
		ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
		defer cancel()
		if _, err := h.SetCurrentVersion(ctx, client.WorkerDeploymentSetCurrentVersionOptions{BuildID: build}); err != nil {
			return err
		}
		is, err := h.Describe(ctx, client.WorkerDeploymentDescribeOptions{})
		if err == nil && (is.Info.RoutingConfig.CurrentVersion == nil || is.Info.RoutingConfig.CurrentVersion.BuildID != build) {
			err = fmt.Errorf("it is %+v", is.Info.RoutingConfig.CurrentVersion)
		}
		return err
	})
}

// says waits until /ready of a worker says something.
func (w *world) says(name, want string) {
	w.t.Helper()
	w.poll(name+" to say "+want, func() error {
		body := w.page(w.t, name, "/ready")
		if !strings.Contains(body, want) {
			return fmt.Errorf("it says %s", body)
		}
		return nil
	})
}

// stays checks that a worker goes on saying something for longer than it takes
// Temporal to look at builds twice.
func (w *world) stays(name, want string) {
	w.t.Helper()
	w.says(name, want)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for range 12 {
		<-tick.C
		if body := w.page(w.t, name, "/ready"); !strings.Contains(body, want) {
			w.t.Fatalf("%s says %s", name, body)
		}
	}
}

// builds checks that no other builds than these have worked on a request; ""
// is none.
func (w *world) builds(t *testing.T, id string, want ...string) {
	t.Helper()
	events := w.dial().GetWorkflowHistory(t.Context(), access.WorkflowID(id), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	var have []string
	for events.HasNext() {
		e, err := events.Next()
		if err != nil {
			t.Fatal(err)
		}
		if a := e.GetWorkflowTaskCompletedEventAttributes(); a != nil {
			have = append(have, a.GetDeploymentVersion().GetBuildId())
		}
	}
	for _, build := range have {
		if !slices.Contains(want, build) {
			t.Errorf("builds %q have worked on request %s, want %q alone", have, id, want)
			return
		}
	}
	if len(have) == 0 {
		t.Errorf("nobody has worked on request %s", id)
	}
}
