package evidence

import (
	"time"

	"hallpass/access"
)

// Bar is a standing after what the record bars, whatever the evidence says: a grant
// that can't be extended any more, by when it ended or who did before, and a request
// for which policy's limits leave no room. limited is what the record said of those,
// CodeLimited, or nil. The code is for the record: how an extension came too late.
//
// The workflow hears of it at once; for good it is said by the ledger, when the
// credential is prepared.
func Bar(s access.Standing, limited error, now time.Time) (access.Standing, access.Code) {
	if s.Effect == access.EffectDeny {
		return s, ""
	}
	if s.Extends != nil {
		if why := s.Extends.Refused(s.Request.ID, now); why != "" {
			return denied(s, why), access.CodeEnded
		}
	}
	if limited != nil {
		return denied(s, limited.Error()), ""
	}
	return s, ""
}

// denied is s for a request that nobody is asked about any more.
func denied(s access.Standing, why string) access.Standing {
	s.Effect, s.Why, s.Missing, s.Duration = access.EffectDeny, why, nil, 0
	return s
}

// CheckDeadline refuses a decision that was signed after the time for approvals. One
// that was signed in time and only arrives later counts.
func CheckDeadline(d access.Decision, deadline time.Time) error {
	if d.Time.After(deadline) {
		return access.Errorf(access.CodeEnded, "the time for approvals ended at %s, before this was signed", deadline.Format(time.RFC3339))
	}
	return nil
}
