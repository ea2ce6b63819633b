package evidence

import (
	"net"
	"slices"
	"time"

	"hallpass/access"
	"hallpass/catalog"
	"hallpass/statement"
)

// Locks are the locks that nobody has lifted, oldest first. Which of them have
// ended by themselves is asked each time something is judged.
type Locks []Held

// Held is one lock and the statement that it rests on.
type Held struct {
	Lock      access.Lock      `json:"lock"`
	Statement access.Statement `json:"statement"`
}

// Under is the rulebook with these locks in force: Judge, Hear, CheckLock and
// CheckLocked heed them. The rulebook itself is not changed.
func (r *Rulebook) Under(locks Locks) *Rulebook {
	c := *r
	c.locks = locks
	return &c
}

// After are the locks after one more lock statement that CheckLock has let
// through. The locks themselves are not changed.
func (l Locks) After(lock access.Lock, st access.Statement) Locks {
	if lock.Action == access.ActionUnlock {
		return slices.DeleteFunc(slices.Clone(l), func(h Held) bool { return h.Lock.ID == lock.Lock })
	}
	return append(slices.Clone(l), Held{lock, st})
}

// Find is the lock with this id, false if there is none or it was lifted.
func (l Locks) Find(id string) (Held, bool) {
	i := slices.IndexFunc(l, func(h Held) bool { return h.Lock.ID == id })
	if i < 0 {
		return Held{}, false
	}
	return l[i], true
}

// InForce are the locks that haven't ended by themselves at now.
func (l Locks) InForce(now time.Time) Locks {
	return slices.DeleteFunc(slices.Clone(l), func(h Held) bool { return !h.Lock.InForce(now) })
}

// CheckLock checks a lock statement that is new: whether its signer may lock,
// or lift the lock that it names, at now. It is asked once, when the statement
// is to be recorded; from then on the lock stands, whatever becomes of who
// signed it.
//
// A lock may be old when it comes, so that none is lost to a service that was
// down; an unlock must not be.
func (r *Rulebook) CheckLock(st access.Statement, now time.Time) (access.Lock, access.User, error) {
	fail := func(err error) (access.Lock, access.User, error) { return access.Lock{}, access.User{}, err }
	lock, user, err := statement.OpenLock(st, r.Directory)
	if err != nil {
		return fail(err)
	}
	if !r.mayLock(user) {
		err := access.Errorf(access.CodeForbidden, "%s is in none of the groups that may lock and unlock", user.Name)
		if len(r.Policy.Lockers()) == 0 {
			err = err.WithHint("the policy names them: locks: {groups: [security]}")
		}
		return fail(err)
	}
	if by, locked := r.lockOn(user.Name, access.Resource{}, now); locked {
		return fail(access.Errorf(access.CodeForbidden, "%s, so he locks and unlocks nothing", by.Why()))
	}
	if lock.Time.After(now.Add(access.ClockSkew)) {
		return fail(future("lock"))
	}
	if lock.Action == access.ActionLock {
		if !lock.InForce(now) {
			return fail(access.Errorf(access.CodeStale, "the lock has ended at %s, before it came", lock.Until.Format(time.RFC3339)))
		}
		return lock, user, nil
	}
	held, ok := r.locks.Find(lock.Lock)
	switch {
	case !ok:
		return fail(access.Errorf(access.CodeNotFound, "there is no lock %s, or it was lifted before", lock.Lock).WithHint("hallpass locks"))
	case held.Lock.Kind != lock.Kind || held.Lock.Name != lock.Name:
		return fail(access.Errorf(access.CodeMismatch, "lock %s is on %s %s, not on %s %s", lock.Lock, held.Lock.Kind, held.Lock.Name, lock.Kind, lock.Name))
	case now.After(lock.Time.Add(access.EvidenceAge)):
		return fail(access.Errorf(access.CodeStale, "the unlock is older than %s", access.ShortDuration(access.EvidenceAge)).WithHint("sign it again"))
	}
	return lock, user, nil
}

func (r *Rulebook) mayLock(u access.User) bool {
	lockers := r.Policy.Lockers()
	return slices.ContainsFunc(u.Groups, func(g string) bool { return slices.Contains(lockers, g) })
}

// CheckLocked checks that a lock ends a request: it has to be one of those in
// force, so that nobody can say again what was lifted, and the request has to
// be under it. Like a revoke it works whatever has become of requester,
// resource and policy.
func (r *Rulebook) CheckLocked(request, st access.Statement, now time.Time) (access.Lock, error) {
	none := access.Lock{}
	v, err := statement.Verify(request, access.TypeRequest)
	if err != nil {
		return none, err
	}
	req, err := statement.ParseRequest(v.Payload)
	if err != nil {
		return none, err
	}
	i := slices.IndexFunc(r.locks, func(h Held) bool { return h.Statement == st })
	if i < 0 || !r.locks[i].Lock.InForce(now) {
		return none, access.Errorf(access.CodeForbidden, "no such lock is in force").WithHint("hallpass locks")
	}
	lock := r.locks[i].Lock
	if !r.Covers(lock, req.Signer, req.Resource) {
		return none, access.Errorf(access.CodeMismatch, "%s %s is locked, which is not what the request is about", lock.Kind, lock.Name)
	}
	return lock, nil
}

// Covers says whether a lock stands against a requester having a resource.
func (r *Rulebook) Covers(l access.Lock, requester, resource string) bool {
	return covers(l, requester, r.resource(resource))
}

// Reach is what a lock stands against: all requests of a requester, or for
// these resources.
func (r *Rulebook) Reach(l access.Lock) (requester string, resources []string) {
	switch l.Kind {
	case access.LockUser:
		return l.Name, nil
	case access.LockResource:
		return "", []string{l.Name}
	}
	// What has left the catalog may still be open under its own name.
	if own := catalog.KindSSH + "/" + l.Name; access.CheckResource(own) == nil {
		resources = append(resources, own)
	}
	for _, res := range r.Catalog.Resources() {
		if covers(l, "", res) && !slices.Contains(resources, res.Name) {
			resources = append(resources, res.Name)
		}
	}
	return "", resources
}

// resource is a resource as the catalog has it, or as much as its name says.
func (r *Rulebook) resource(name string) access.Resource {
	res, ok := r.Catalog.Resource(name)
	if !ok {
		kind, _ := access.SplitResource(name)
		res = access.Resource{Name: name, Kind: kind}
	}
	return res
}

// lockOn finds a lock in force against user having resource.
func (r *Rulebook) lockOn(user string, resource access.Resource, now time.Time) (access.Lock, bool) {
	for _, h := range r.locks {
		if h.Lock.InForce(now) && covers(h.Lock, user, resource) {
			return h.Lock, true
		}
	}
	return access.Lock{}, false
}

func covers(l access.Lock, user string, resource access.Resource) bool {
	switch l.Kind {
	case access.LockUser:
		return l.Name == user
	case access.LockResource:
		return l.Name == resource.Name
	case access.LockHost:
		address := resource.Address
		if host, _, err := net.SplitHostPort(address); err == nil {
			address = host
		}
		return resource.Kind == catalog.KindSSH &&
			(l.Name == resource.ShortName() || l.Name == address || slices.Contains(resource.Hosts, l.Name))
	}
	return false
}
