package audit

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

// What there was before is counted for this requester and this resource alone,
// without the request that is asked about.
func TestPast(t *testing.T) {
	w := newWorld(t)
	granted, denied := w.live()
	again, _ := w.ask("alice")
	hours := make([]int, 24)
	hours[granted.Time.Hour()] = 1
	from := w.grants()[0]
	for _, c := range []struct {
		name, requester, resource, request string
		want                               access.Past
	}{
		{"had it", "alice", again.Resource, again.ID, access.Past{Grants: 1, Longest: 1800, Asked: 1, Hours: hours, Last: []access.PastGrant{{
			Request: granted.ID, Login: "deploy", From: from.From, Until: from.Until, Ended: access.StateReleased, ApprovedBy: []string{"bob"},
		}}}},
		{"another resource", "alice", "ssh/web-2", again.ID, access.Past{Asked: 1, Hours: hours}},
		{"denied before", "dave", again.Resource, again.ID, access.Past{Asked: 1, Hours: hours}},
		{"only this one", "dave", again.Resource, denied.ID, access.Past{}},
		{"nobody", "zoe", again.Resource, again.ID, access.Past{}},
	} {
		got, err := w.log.Past(context.Background(), c.requester, c.resource, c.request)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func (w *world) grants() []Grant {
	w.t.Helper()
	all, err := w.log.Grants(context.Background(), Query{})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}
