package access

// Sweeping is the input of the workflow Sweep. Whoever starts it leaves it
// empty; the rest is what a run hands on to the next one.
type Sweeping struct {
	After  string   `json:"after,omitempty"`  // the last request looked at
	Ledger bool     `json:"ledger,omitempty"` // all open grants were looked at
	Kinds  []string `json:"kinds,omitempty"`  // whose issuers are still to look, sorted
	Cursor string   `json:"cursor,omitempty"` // where the first of these goes on
	Swept  Swept    `json:"swept,omitzero"`   // so far
}

// Swept is the result of the workflow Sweep.
type Swept struct {
	Grants      int       `json:"grants"`      // open grants that were held against what runs in Temporal
	Credentials int       `json:"credentials"` // credentials, where they live, that were held against the ledger
	Ended       int       `json:"ended"`       // grants that nothing ran for: ended
	Revoked     int       `json:"revoked"`     // credentials without a live grant: taken back
	Stuck       int       `json:"stuck"`       // what couldn't be taken back, or couldn't be looked at
	Findings    []Finding `json:"findings,omitempty"`
}

// MaxFindings bounds the findings that a Swept lists. All are in the audit
// log.
const MaxFindings = 100

// What a sweep did about what it found.
const (
	SweptEnded   = "ended"   // an open grant, as nothing ran for it any more
	SweptRevoked = "revoked" // a credential, as it had no live grant
	SweptStuck   = "stuck"   // it couldn't, and somebody has to look
)

// Finding is one thing that a sweep found.
type Finding struct {
	What    string `json:"what"`
	Kind    string `json:"kind"`              // of the resource
	Request string `json:"request,omitempty"` // "" where it isn't about one
	Why     string `json:"why"`               // one line for people
}

// Add counts a finding, and lists it while there is room.
func (s *Swept) Add(f Finding) {
	switch f.What {
	case SweptEnded:
		s.Ended++
	case SweptRevoked:
		s.Revoked++
	default:
		s.Stuck++
	}
	if len(s.Findings) < MaxFindings {
		s.Findings = append(s.Findings, f)
	}
}
