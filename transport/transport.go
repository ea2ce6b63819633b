// Package transport carries what people say to hallpass, and what they ask, to
// where it is heard: to Temporal, or to the service over HTTPS.
//
// Use [Temporal] where there is access to Temporal; the service itself does.
// Use [HTTPS] everywhere else. Both do the same with the same errors:
// *access.Error where something was refused or can't be reached, and the
// context's own error when that ended. Neither is believed: what is said is
// signed, and what is answered is for whoever asked to verify.
package transport

import (
	"strings"
	"time"

	"hallpass/access"
)

// Filter chooses requests; zero fields choose all.
type Filter struct {
	Prefix    string // of the request's id
	Requester string
	Resource  string
	States    []access.State
	Limit     int // zero: 50
}

// Summary is what a list shows of a request. It comes from search attributes
// and may lag behind its status by a moment.
type Summary struct {
	ID        string       `json:"id"`
	State     access.State `json:"state"`
	Requester string       `json:"requester"`
	Resource  string       `json:"resource"`
	Approvers []string     `json:"approvers,omitempty"`
	Asked     time.Time    `json:"asked"`
	Expires   *time.Time   `json:"expires,omitempty"`
	Ended     *time.Time   `json:"ended,omitempty"`
	Workflow  string       `json:"workflow,omitempty"` // how its workflow ended, where it wasn't by itself
}

// Query writes the filter in Temporal's visibility language. Everything in it
// has been checked to hold no quote.
func (f Filter) Query() (string, error) {
	and := []string{"WorkflowType = '" + access.Workflow + "'"}
	if f.Prefix != "" {
		if !access.IsIDPrefix(f.Prefix) {
			return "", access.Errorf(access.CodeMalformed, "%.40q is not the beginning of a request's id", f.Prefix)
		}
		and = append(and, "WorkflowId STARTS_WITH '"+access.WorkflowID(f.Prefix)+"'")
	}
	if f.Requester != "" {
		if err := access.CheckName("requester", f.Requester); err != nil {
			return "", err
		}
		and = append(and, access.AttrRequester+" = '"+f.Requester+"'")
	}
	if f.Resource != "" {
		if err := access.CheckResource(f.Resource); err != nil {
			return "", err
		}
		and = append(and, access.AttrResource+" = '"+f.Resource+"'")
	}
	if len(f.States) > 0 {
		states := make([]string, len(f.States))
		for i, s := range f.States {
			states[i] = "'" + string(s) + "'"
		}
		and = append(and, access.AttrState+" IN ("+strings.Join(states, ", ")+")")
	}
	return strings.Join(and, " AND "), nil
}
