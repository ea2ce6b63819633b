package access

import "time"

// Limits bound how much is granted, counted in the audit log. All matching
// rules' limits hold together: the lowest of each, and the longest cool-down.
type Limits struct {
	User     Limit `json:"user,omitzero"`     // on what the requester has, of whatever resource
	Resource Limit `json:"resource,omitzero"` // on what anybody has of the resource
	Both     Limit `json:"both,omitzero"`     // on what the requester has of the resource
}

// Limit is one of Limits. Zero fields limit nothing.
type Limit struct {
	Running  int     `json:"running,omitempty"`  // grants at once
	PerHour  int     `json:"per_hour,omitempty"` // requests within an hour, but for those that a limit refused
	Cooldown Seconds `json:"cooldown,omitempty"` // how long nothing is granted after somebody has denied
}

// MaxCooldown bounds Limit.Cooldown. How much has to be looked through hangs on
// it.
const MaxCooldown = 7 * 24 * time.Hour

// Strictest are the limits that hold where both do.
func (l Limits) Strictest(o Limits) Limits {
	return Limits{User: l.User.strictest(o.User), Resource: l.Resource.strictest(o.Resource), Both: l.Both.strictest(o.Both)}
}

func (l Limit) strictest(o Limit) Limit {
	return Limit{Running: lower(l.Running, o.Running), PerHour: lower(l.PerHour, o.PerHour), Cooldown: max(l.Cooldown, o.Cooldown)}
}

// lower is the lower of two bounds, where 0 is none.
func lower(a, b int) int {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
