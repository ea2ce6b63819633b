package access

import (
	"fmt"
	"time"
)

// Extended is what is on record of the grant that a request extends.
type Extended struct {
	Request   string    `json:"request"`
	Statement Statement `json:"statement"`       // the grant's request
	Begin     time.Time `json:"begin"`           // of the first grant, where this one extends others
	End       time.Time `json:"end"`             // of the grant; the extension goes on from here
	Ended     State     `json:"ended,omitempty"` // "" while it is open
	By        string    `json:"by,omitempty"`    // the request that extends it already
	Row       int       `json:"row,omitempty"`   // how many grants it extends, one after the other
}

// Refused says why the grant can't be extended by a request at now, or "".
func (e Extended) Refused(request string, now time.Time) string {
	switch {
	case e.Ended != "":
		return "the grant of request " + e.Request + " has ended: " + string(e.Ended)
	case !now.Before(e.End):
		return "the grant of request " + e.Request + " has ended at " + e.End.UTC().Format(time.RFC3339)
	case e.By != "" && e.By != request:
		return "the grant of request " + e.Request + " was extended before, by request " + e.By
	case e.Row >= MaxExtensions:
		return fmt.Sprintf("the grant of request %s is the last of a row of %d extensions, which is all that there can be", e.Request, MaxExtensions)
	}
	return ""
}
