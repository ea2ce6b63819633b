package policy

import "slices"

// locks is the section of that name: who may lock, and lift locks.
type locks struct {
	groups []string
	at     position
}

func (r *reader) locks(n node) (l locks) {
	r.object(n, "locks", fields{
		"groups": func(v node) { l.groups, l.at = sorted(r.names(v, "groups")), r.at(v) },
	}, "groups")
	return l
}

// Lockers lists the groups whose members may lock users, resources and hosts,
// and lift locks. Without any, nobody may.
func (p *Policy) Lockers() []string { return slices.Clone(p.locks.groups) }

func (l *linter) lintLockers() {
	for _, g := range l.p.locks.groups {
		if len(l.dir.Members(g)) == 0 {
			l.say(l.p.locks.at, "nobody in the directory is in group %s", g)
		}
	}
}
