package policy

import (
	"time"

	"hallpass/access"
)

// MaxLimit bounds the counts of a limit: so many have to be counted.
const MaxLimit = 1000

// limits reads how much a rule lets anybody have.
func (r *reader) limits(v node) (out access.Limits) {
	one := func(what string, into *access.Limit) func(node) {
		return func(v node) {
			r.object(v, what, fields{
				"running":  func(v node) { into.Running = r.count(v, "running", MaxLimit) },
				"per_hour": func(v node) { into.PerHour = r.count(v, "per_hour", MaxLimit) },
				"cooldown": func(v node) {
					into.Cooldown = access.InSeconds(r.duration(v, "cooldown", time.Second, access.MaxCooldown))
				},
			})
			if *into == (access.Limit{}) {
				r.fail(v, "%s limits nothing: name running, per_hour or cooldown", what)
			}
		}
	}
	r.object(v, "limits", fields{
		"user": one("user", &out.User), "resource": one("resource", &out.Resource), "both": one("both", &out.Both),
	})
	if out == (access.Limits{}) {
		r.fail(v, "limits is empty: name user, resource or both")
	}
	return out
}

// Limited says whether any rule has limits.
func (p *Policy) Limited() bool { return p.limited }
