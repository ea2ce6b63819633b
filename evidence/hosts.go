package evidence

import (
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/catalog"
	"hallpass/statement"
)

// CheckJoin checks the invitation of a host: by somebody whom policy lets take
// hosts in, of a resource that is in the catalog, not over yet, and with
// nothing locked. How often it is used is for the ledger to say.
func (r *Rulebook) CheckJoin(st access.Statement, now time.Time) (access.Join, access.User, access.Resource, error) {
	fail := func(err error) (access.Join, access.User, access.Resource, error) {
		return access.Join{}, access.User{}, access.Resource{}, err
	}
	join, user, err := statement.OpenJoin(st, r.Directory)
	if err != nil {
		return fail(err)
	}
	if join.Time.After(now.Add(access.ClockSkew)) {
		return fail(future("join token"))
	}
	if !now.Before(join.Until) {
		return fail(access.Errorf(access.CodeStale, "the join token was good until %s", join.Until.Format(time.RFC3339)).
			WithHint("make another one with: hallpass host token %s", strings.TrimPrefix(join.Resource, catalog.KindSSH+"/")))
	}
	if !slices.ContainsFunc(user.Groups, func(g string) bool { return slices.Contains(r.Policy.Enrollers(), g) }) {
		err := access.Errorf(access.CodeForbidden, "%s may not take hosts in", user.Name)
		if len(r.Policy.Enrollers()) == 0 {
			return fail(err.WithHint("name who may in policy.yaml, such as: hosts: {enroll: [sre]}"))
		}
		return fail(err.WithHint("those in %s may", strings.Join(r.Policy.Enrollers(), ", ")))
	}
	resource, err := r.host(join.Resource)
	if err != nil {
		return fail(err)
	}
	if lock, locked := r.lockOn(user.Name, resource, now); locked {
		return fail(access.Errorf(access.CodeForbidden, "%s", lock.Why()))
	}
	return join, user, resource, nil
}

// CheckRenewal checks what an enrolled host asks. The key is that of its
// agent, as the host enrolled.
func (r *Rulebook) CheckRenewal(st access.Statement, agent ssh.PublicKey, now time.Time) (access.Renewal, access.Resource, error) {
	fail := func(err error) (access.Renewal, access.Resource, error) {
		return access.Renewal{}, access.Resource{}, err
	}
	renewal, key, err := statement.OpenRenewal(st)
	if err != nil {
		return fail(err)
	}
	if !sameKey(key, agent) {
		return fail(access.Errorf(access.CodeUnverified, "this is signed by another key than the one that %s enrolled with", renewal.Signer).
			WithHint("enrol the host anew"))
	}
	switch {
	case renewal.Time.After(now.Add(access.ClockSkew)):
		return fail(future("renewal"))
	case renewal.Time.Before(now.Add(-access.ClockSkew)):
		return fail(access.Errorf(access.CodeStale, "renewal is more than %s old", access.ShortDuration(access.ClockSkew)).
			WithHint("compare the clocks of the two machines"))
	}
	resource, err := r.host(catalog.KindSSH + "/" + renewal.Signer)
	if err != nil {
		return fail(err)
	}
	if lock, locked := r.lockOn("", resource, now); locked {
		return fail(access.Errorf(access.CodeForbidden, "%s", lock.Why()))
	}
	return renewal, resource, nil
}

func (r *Rulebook) host(name string) (access.Resource, error) {
	resource, ok := r.Catalog.Resource(name)
	if !ok {
		return access.Resource{}, access.Errorf(access.CodeNotFound, "there is no resource %s in the catalog", name)
	}
	if resource.Kind != catalog.KindSSH {
		return access.Resource{}, access.Errorf(access.CodeMalformed, "%s is not of kind ssh, so it has no host", name)
	}
	return resource, nil
}

func sameKey(a, b ssh.PublicKey) bool {
	return a != nil && b != nil && string(a.Marshal()) == string(b.Marshal())
}

// HostNames are the names that a resource's host certificate can be good for:
// its hosts in the catalog and where it is reached.
func HostNames(r access.Resource) []string {
	var names []string
	for _, name := range slices.Concat(r.Hosts, []string{addressHost(r)}) {
		name = strings.ToLower(name)
		if access.CheckHost(name) == nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// addressHost is the host of a resource's address.
func addressHost(r access.Resource) string {
	if host, _, err := net.SplitHostPort(r.Address); err == nil {
		return host
	}
	return r.Address
}

// Principals says what opens which login on the host of a resource: the
// principals of that resource, and those of every other that stands for this
// host among others.
func (r *Rulebook) Principals(host access.Resource) map[string][]string {
	out := map[string][]string{}
	for _, res := range r.On(host) {
		for _, login := range res.Logins {
			if p, err := ca.Principal(res.Name, login); err == nil {
				out[login] = append(out[login], p)
			}
		}
	}
	return out
}

// On lists the resources whose certificates open something on this host: its
// own first.
func (r *Rulebook) On(host access.Resource) []access.Resource {
	on := []access.Resource{host}
	for _, res := range r.Catalog.Resources() {
		if res.Name != host.Name && res.Kind == catalog.KindSSH &&
			slices.ContainsFunc(res.Hosts, func(h string) bool { return slices.Contains(host.Hosts, h) }) {
			on = append(on, res)
		}
	}
	return on
}
