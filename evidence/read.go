package evidence

import (
	"time"

	"hallpass/access"
	"hallpass/statement"
)

// CheckRead checks by whom a read statement is: somebody whom today's directory
// knows, for this service, and not over. A lock doesn't keep anybody from
// reading why he is locked.
func (r *Rulebook) CheckRead(st access.Statement, audience string, now time.Time) (access.User, error) {
	read, user, err := statement.OpenRead(st, r.Directory)
	switch {
	case err != nil:
		return access.User{}, err
	case read.Audience != audience:
		return access.User{}, access.Errorf(access.CodeMismatch, "the read statement is for another service").
			WithHint("service.ca has to be the certificate of this one's CA")
	case read.Time.After(now.Add(access.ClockSkew)):
		return access.User{}, future("read statement")
	case !now.Before(read.Until):
		return access.User{}, access.Errorf(access.CodeStale, "the read statement was good until %s", read.Until.Format(time.RFC3339)).
			WithHint("compare the clocks of the two machines")
	}
	return user, nil
}
