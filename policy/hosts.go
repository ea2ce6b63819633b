package policy

import "slices"

// hosts is the section of that name: who may take hosts in.
type hosts struct {
	enroll []string
	at     position
}

func (r *reader) hosts(n node) (h hosts) {
	r.object(n, "hosts", fields{
		"enroll": func(v node) { h.enroll, h.at = sorted(r.names(v, "enroll")), r.at(v) },
	}, "enroll")
	return h
}

// Enrollers lists the groups whose members may invite hosts. Without any,
// nobody may.
func (p *Policy) Enrollers() []string { return slices.Clone(p.hosts.enroll) }

func (l *linter) lintEnrollers() {
	for _, g := range l.p.hosts.enroll {
		if len(l.dir.Members(g)) == 0 {
			l.say(l.p.hosts.at, "nobody in the directory is in group %s", g)
		}
	}
}
