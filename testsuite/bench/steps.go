package main

import (
	"errors"
	"fmt"
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

// The ways of the two flows of request.
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
	toTheApproval = []stage{
		{"until the client sees that", ruled, true},
		{"approved, until that is a signal", enums.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, false},
		{"until the next task is at a worker", enums.EVENT_TYPE_WORKFLOW_TASK_STARTED, false},
		{"the task, with the check of the approval", ruled, false},
	}
)

// steps takes the latency of one request at a time apart, and beside it that of bare
// workflows, in turn.
func (b *bench) steps() error {
	return b.world(func(w *world) error {
		for _, f := range []struct {
			name     string
			hallpass op
			bare     bareInput
			way      [][]stage
		}{
			{"automatic", w.automatic, bareInput{}, [][]stage{toTheRuling, toTheIssuer}},
			{"with an approval", w.approved, bareInput{Approvals: 1}, [][]stage{toTheRuling, toTheApproval, toTheIssuer}},
		} {
			var way []stage
			for _, part := range f.way {
				way = append(way, part...)
			}
			whose := []who{
				{"hallpass", f.hallpass}, {bareFlow, w.bare(f.bare)}, {sameFlow, w.bare(f.bare.same())}, {diskFlow, w.bare(f.bare.disk())},
			}
			took := make([][]measure.Times, len(whose)) // by step; the last is all of them
			const warm = 10
			for turn := range warm + b.times(200) {
				for i, who := range inTurn(turn, whose) {
					from := time.Now()
					history, err := who.op(b.ctx)
					if err != nil {
						return fmt.Errorf("%s: %w", f.name, err)
					}
					each, err := along(way, from, history.seen)
					if err != nil {
						return fmt.Errorf("%s: %w", f.name, err)
					}
					if turn < warm {
						took[i] = make([]measure.Times, len(each))
						continue
					}
					for k, d := range each {
						took[i][k] = append(took[i][k], d)
					}
				}
			}
			for k, s := range append(way, stage{name: "in all"}) {
				ours := took[0][k]
				r := row{
					Name: f.name + ": " + s.name, P50: ours.At(0.5).Seconds(), P99: ours.At(0.99).Seconds(), N: len(ours), Also: map[string]float64{},
				}
				for i, who := range whose[1:] {
					r.Also["ms "+who.name] = took[i+1][k].At(0.5).Seconds() * 1e3
				}
				b.add(r)
			}
		}
		return nil
	})
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
