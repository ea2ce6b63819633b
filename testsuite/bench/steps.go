package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"

	"hallpass/testsuite/measure"
)

// stage is a place on the way from the request to the certificate: an event, when it
// happened by Temporal's clock, or when the client saw it by its own. Both are that of
// this machine.
type stage struct {
	name  string // of the step that leads to it
	event enums.EventType
	seen  bool
}

// The ways of what request and life measure.
var (
	toTheIssuer = []stage{
		{"until the issue is at an issuer", enums.EVENT_TYPE_ACTIVITY_TASK_STARTED, false},
		{"the issue", issued, false},
		{"until the client sees it", issued, true},
	}
	toTheRuling = []stage{
		{"asked, until it is started", enums.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, false},
		{"until its task is at a worker", enums.EVENT_TYPE_WORKFLOW_TASK_STARTED, false},
		{"the task, with the ruling", ruled, false},
	}
	toTheEnd = []stage{
		{"released, until that is a signal", enums.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, false},
		{"until the last task is at a worker", enums.EVENT_TYPE_WORKFLOW_TASK_STARTED, false},
		{"the task, with the check of the release", ruled, false},
		{"until the revocation is at an issuer", enums.EVENT_TYPE_ACTIVITY_TASK_STARTED, false},
		{"the revocation", issued, false},
		{"until it is over", over, false},
		{"until the client sees the end", over, true},
	}
	toTheApproval = []stage{
		{"until the client sees that", ruled, true},
		{"approved, until that is a signal", enums.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, false},
		{"until the next task is at a worker", enums.EVENT_TYPE_WORKFLOW_TASK_STARTED, false},
		{"the task, with the check of the approval", ruled, false},
	}
)

func (b *bench) steps() error { return b.world(b.stepByStep) }

func (b *bench) postgresSteps() error { return b.topology(b.stepByStep) }

// stepByStep takes the latency of one request at a time apart, and beside it that of bare
// workflows, in turn.
func (b *bench) stepByStep(w *world) error {
	for _, f := range []struct {
		flow
		way [][]stage
	}{
		{flow{"automatic", w.automatic, bareInput{}}, [][]stage{toTheRuling, toTheIssuer}},
		{flow{"with an approval", w.approved, bareInput{Approvals: 1}}, [][]stage{toTheRuling, toTheApproval, toTheIssuer}},
		{flow{"whole life", w.life, bareInput{Approvals: 1, Release: true}}, [][]stage{toTheRuling, toTheApproval, toTheIssuer, toTheEnd}},
	} {
		var way []stage
		for _, part := range f.way {
			way = append(way, part...)
		}
		whose := w.beside(f.flow)
		took := map[string][]measure.Times{} // by step; the last is all of them
		ways := map[string]map[string]bool{} // the events that each has had
		bytes := map[string]int{}            // that these take, all in all
		const warm = 10
		for turn := range warm + b.times(200) {
			for _, who := range inTurn(turn, whose) {
				from := time.Now()
				history, err := who.op(b.ctx)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", f.name, who.name, err)
				}
				each, err := along(way, from, history.seen)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", f.name, who.name, err)
				}
				if turn < warm {
					took[who.name], ways[who.name] = make([]measure.Times, len(each)), map[string]bool{}
					continue
				}
				for k, d := range each {
					took[who.name][k] = append(took[who.name][k], d)
				}
				ways[who.name][events(history.seen)] = true
				for _, s := range history.seen {
					bytes[who.name] += s.bytes
				}
			}
		}
		if err := alike(ways["hallpass"], ways[sameFlow]); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if err := asLong(bytes["hallpass"], bytes[sameFlow]); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		for k, s := range append(way, stage{name: "in all"}) {
			ours := took["hallpass"][k]
			r := row{
				Name: f.name + ": " + s.name, P50: ours.At(0.5).Seconds(), P99: ours.At(0.99).Seconds(), N: len(ours), Also: map[string]float64{},
			}
			for _, who := range whose {
				if who.name != "hallpass" {
					r.Also["ms "+who.name] = took[who.name][k].At(0.5).Seconds() * 1e3
				}
			}
			b.add(r)
		}
	}
	return nil
}

// events names those that were seen.
func events(seen []sighting) string {
	var names []string
	for _, s := range seen {
		names = append(names, s.event.String())
	}
	return strings.Join(names, " ")
}

// alike refuses figures of what should be the same flow as a request's and has never
// had the same events.
func alike(ours, same map[string]bool) error {
	for way := range ours {
		if same[way] {
			return nil
		}
	}
	return fmt.Errorf("%q isn't the flow of a request: %v, not %v", sameFlow, slices.Sorted(maps.Keys(same)), slices.Sorted(maps.Keys(ours)))
}

// asLong refuses figures of what should carry as many bytes as a request and doesn't, to a tenth.
func asLong(ours, same int) error {
	if 10*max(ours-same, same-ours) > ours {
		return fmt.Errorf("%q isn't the flow of a request: its histories have %d bytes in all, not %d", sameFlow, same, ours)
	}
	return nil
}

// along says how long each step of a way took, and at last all of them.
func along(way []stage, from time.Time, seen []sighting) (took []time.Duration, err error) {
	last := from
	for _, s := range way {
		for len(seen) > 0 && seen[0].event != s.event {
			seen = seen[1:]
		}
		if len(seen) == 0 {
			return nil, errors.New("there is no " + s.event.String() + " in the history, for: " + s.name)
		}
		at := seen[0].at
		if s.seen {
			at = seen[0].seen
		}
		took, last = append(took, at.Sub(last)), at
	}
	return append(took, last.Sub(from)), nil
}
