package grant

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/catalog"
	"hallpass/internal/wording"
	"hallpass/vault"
)

// One step of Look begins with a list, which costs Vault the more the longer it
// is. So it goes on until it has found something to do, or has taken its time.
const (
	lookFor    = 15 * time.Second
	lookFind   = 100 // tokens without a grant
	lookAtOnce = 200 // tokens or leases between two looks at the clock
	lookBeside = 8   // questions to Vault at a time
)

// foreign keeps in mind which tokens aren't hallpass's: what a token was made
// for never changes, and Vault may have many.
type foreign struct {
	mu        sync.Mutex
	accessors map[string]bool
}

// Look goes through the tokens that Vault has, and then through the leases of
// what the catalog names.
//
// A token is hallpass's if it was made by the token role, for a request: its
// metadata say so, which nobody but the role's users can write. Others aren't
// touched.
//
// Who has a lease, Vault doesn't say, but its end does (vault.Mark). Where that is of a
// grant that was ended early, the lease was being made then, or Vault has lost sight
// of its token in a crash: no revocation finds it, and it is ended.
func (k *Vault) Look(ctx context.Context, cursor string, live audit.Living, ended func() ([]access.Handle, error)) (Sight, error) {
	phase, after, _ := strings.Cut(cursor, " ")
	switch phase {
	case "", "token":
		return k.lookAtTokens(ctx, after, live)
	case "lease":
		return k.lookAtLeases(ctx, after, ended)
	}
	return Sight{}, access.Errorf(access.CodeMalformed, "cursor %.40q is none of this kind's", cursor)
}

func (k *Vault) lookAtTokens(ctx context.Context, after string, live audit.Living) (Sight, error) {
	accessors, err := k.list(ctx, "auth/token/accessors")
	if err != nil {
		return Sight{}, fmt.Errorf("list tokens: %w", err)
	}
	k.foreign.keep(accessors)
	var sight Sight
	var unknown []string
	for _, a := range accessors {
		switch {
		case a <= after:
		case live.Has(access.Handle{Kind: catalog.KindVault, Accessor: a}):
			sight.Looked++
		case !k.foreign.has(a):
			unknown = append(unknown, a)
		}
	}
	if after != "" {
		sight.Looked = 0 // the first step has counted them
	}
	var mu sync.Mutex
	last, done, err := k.each(ctx, unknown, func() bool { return len(sight.Found) >= lookFind }, func(ctx context.Context, accessor string) error {
		token, err := k.token(ctx, accessor)
		if err != nil || token == nil { // Vault writes an accessor before its token: there may be one the next time
			return err
		}
		h, ours, err := k.handle(accessor, token)
		if err != nil {
			return err
		}
		if !ours {
			k.foreign.add(accessor)
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		sight.Looked++
		sight.Found = append(sight.Found, h)
		return nil
	})
	if err != nil {
		return Sight{}, err
	}
	slices.SortFunc(sight.Found, func(a, b access.Handle) int { return strings.Compare(a.Accessor, b.Accessor) })
	sight.Next = "lease "
	if !done {
		sight.Next = "token " + last
	}
	return sight, nil
}

// each does something for each of some, many at a time, until they are done,
// enough says so, or the time for one step is over. It says which was the last.
func (k *Vault) each(ctx context.Context, all []string, enough func() bool, do func(context.Context, string) error) (last string, done bool, err error) {
	begun := k.now()
	for chunk := range slices.Chunk(all, lookAtOnce) {
		if last != "" && (enough() || k.now().Sub(begun) > lookFor) {
			return last, false, nil
		}
		if err := beside(ctx, chunk, do); err != nil {
			return last, false, err
		}
		last = chunk[len(chunk)-1]
	}
	return last, true, nil
}

// token looks a token up. Of one that is dead there is nothing.
func (k *Vault) token(ctx context.Context, accessor string) (map[string]any, error) {
	secret, err := k.lookUp(ctx, accessor)
	if vault.Status(err) == http.StatusForbidden {
		// Either nothing may be looked up, or Vault crashed when it made or
		// revoked this one, and keeps an accessor that leads nowhere.
		if _, other := k.lookUp(ctx, "none"); noToken(other) {
			return nil, nil
		}
	}
	if noToken(err) || err == nil && secret == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at a token: %w", err)
	}
	return secret.Data, nil
}

func (k *Vault) lookUp(ctx context.Context, accessor string) (secret *api.Secret, err error) {
	err = k.Vault.Do(ctx, func(ctx context.Context, c *api.Client) (err error) {
		secret, err = c.Auth().Token().LookupAccessorWithContext(ctx, accessor)
		return err
	})
	return secret, err
}

// noToken says whether err is Vault's word that it has no token with an accessor.
func noToken(err error) bool { return vault.Gone(err) || vault.Status(err) == http.StatusNotFound }

// mintPath is where the token role mints.
func (k *Vault) mintPath() string { return "auth/token/create/" + k.TokenRole }

// handle is a token's, and whether it is one of hallpass's.
func (k *Vault) handle(accessor string, token map[string]any) (h access.Handle, ours bool, err error) {
	meta, _ := token["meta"].(map[string]any)
	request, _ := meta["hallpass_request"].(string)
	if token["path"] != k.mintPath() || request == "" {
		return access.Handle{}, false, nil
	}
	h = access.Handle{Kind: catalog.KindVault, Accessor: accessor}
	if uuid.Validate(request) == nil {
		h.Request = request // else nobody's
	}
	made, err := seconds(token["creation_time"])
	if err != nil {
		return access.Handle{}, false, fmt.Errorf("look at the token of request %s: %w", h.Request, err)
	}
	life, err := seconds(token["explicit_max_ttl"])
	if err != nil {
		return access.Handle{}, false, fmt.Errorf("look at the token of request %s: %w", h.Request, err)
	}
	h.NotBefore = time.Unix(made, 0).UTC()
	h.NotAfter = h.NotBefore.Add(time.Duration(life) * time.Second)
	return h, true, nil
}

// lookAtLeases goes through the leases of all paths of the catalog. The cursor
// is the last lease's id, which begins with its path.
func (k *Vault) lookAtLeases(ctx context.Context, after string, ended func() ([]access.Handle, error)) (Sight, error) {
	sight := Sight{Stuck: map[string]Stuck{}}
	grants, err := ended()
	if err != nil {
		return Sight{}, err
	}
	of := byMark(grants)
	paths := map[string]string{} // by lease
	var ids []string
	for _, p := range k.paths() {
		found, err := k.list(ctx, "sys/leases/lookup/"+p+"/")
		if vault.Status(err) == http.StatusForbidden {
			sight.Stuck[p] = Stuck{Why: fmt.Sprintf("the leases below %s may not be listed, so nobody knows whether one is stuck; run: hallpass vault setup --print", p)}
			continue
		}
		if err != nil {
			return Sight{}, fmt.Errorf("list leases: %w", err)
		}
		for _, id := range found {
			// What ends with a slash has leases of another path below it.
			if id = p + "/" + id; id > after && !strings.HasSuffix(id, "/") {
				ids = append(ids, id)
				paths[id] = p
			}
		}
	}
	slices.Sort(ids)
	var mu sync.Mutex
	last, done, err := k.each(ctx, ids, func() bool { return len(sight.Stuck) >= lookFind }, func(ctx context.Context, id string) error {
		l, there, err := k.lease(ctx, id)
		if err != nil || !there {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if l.ttl <= 0 {
			sight.Stuck[id] = l.stuck(k.now())
		} else if h, found := of.grant(paths[id], l.expires); found {
			sight.Stuck[id] = k.left(l, h)
		}
		return nil
	})
	if err != nil {
		return Sight{}, err
	}
	if !done {
		sight.Next = "lease " + last
	}
	return sight, nil
}

// left is a lease of a grant that has ended.
func (k *Vault) left(l lease, h access.Handle) Stuck {
	return Stuck{
		Since: l.issued,
		Why:   whose(l, h),
		End: func(ctx context.Context) error {
			err := k.endLease(ctx, l.id)
			if vault.Status(err) == http.StatusForbidden {
				return fmt.Errorf("%w; run: hallpass vault setup --print", err)
			}
			return err
		},
	}
}

// whose says of which grant a lease is.
func whose(l lease, h access.Handle) string {
	return fmt.Sprintf("the lease %s, from %s, is of the grant of request %s, which has ended: it was being made then, or vault lost sight of it when it crashed", l.id, l.issued.Format(time.RFC3339), h.Request)
}

// endLease revokes a lease, and leaves it to Vault to go on if its database is
// down. Already gone is success.
func (k *Vault) endLease(ctx context.Context, id string) error {
	_, err := k.Vault.Write(ctx, "sys/leases/revoke", map[string]any{"lease_id": id})
	if vault.Missing(err) {
		return nil
	}
	return err
}

// lease is one of Vault's, at the moment that it was looked at.
type lease struct {
	id      string
	ttl     time.Duration // left
	issued  time.Time
	expires time.Time // zero: unknown
}

// stuck is a lease that has ended and still is there: Vault couldn't take its
// secret back where it lives, and tries again for some minutes. Then it gives
// up, and the lease stays.
func (l lease) stuck(now time.Time) Stuck {
	since := l.expires
	if since.IsZero() {
		since = now
	}
	return Stuck{Since: since, Why: fmt.Sprintf("the lease %s ended at %s, and vault has not revoked it: what was read may still work; see vault's log, and the leases it has given up: vault read sys/leases type=irrevocable",
		l.id, since.UTC().Format(time.RFC3339))}
}

// lease looks a lease up, and says whether it is there.
func (k *Vault) lease(ctx context.Context, id string) (l lease, there bool, err error) {
	data, err := k.Vault.Write(ctx, "sys/leases/lookup", map[string]any{"lease_id": id})
	switch {
	case vault.Status(err) == http.StatusBadRequest || vault.Status(err) == http.StatusNotFound || err == nil && data == nil:
		return lease{}, false, nil // gone meanwhile
	case err != nil:
		return lease{}, false, fmt.Errorf("look at a lease: %w", err)
	}
	fail := func(err error) (lease, bool, error) {
		return lease{}, false, fmt.Errorf("look at lease %s: %w", id, err)
	}
	ttl, err := seconds(data["ttl"])
	if err != nil {
		return fail(err)
	}
	l = lease{id: id, ttl: time.Duration(ttl) * time.Second}
	if text, _ := data["expire_time"].(string); text != "" {
		if l.expires, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return fail(otherwise(text, "a time"))
		}
	}
	if l.issued, err = issued(data); err != nil {
		return fail(err)
	}
	l.issued = l.issued.UTC()
	return l, true, nil
}

// list lists what is below a path, sorted.
func (k *Vault) list(ctx context.Context, path string) ([]string, error) {
	var secret *api.Secret
	err := k.Vault.Do(ctx, func(ctx context.Context, c *api.Client) (err error) {
		secret, err = c.Logical().ListWithContext(ctx, path)
		return err
	})
	if vault.Status(err) == http.StatusNotFound || err == nil && secret == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	raw, _ := secret.Data["keys"].([]any)
	keys := make([]string, 0, len(raw))
	for _, key := range raw {
		if s, ok := key.(string); ok {
			keys = append(keys, s)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

func (k *Vault) paths() []string {
	if k.Leases == nil {
		return nil
	}
	return k.Leases()
}

// beside does something for each of some, several at a time, until one fails.
func beside(ctx context.Context, all []string, do func(context.Context, string) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	queue := make(chan string)
	for range min(lookBeside, len(all)) {
		running.Go(func() {
			for one := range queue {
				if err := do(ctx, one); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	func() {
		defer close(queue)
		for _, one := range all {
			select {
			case queue <- one:
			case <-ctx.Done():
				return
			}
		}
	}()
	running.Wait()
	return context.Cause(ctx)
}

// seconds reads a number of Vault's.
func seconds(v any) (int64, error) {
	if n, ok := v.(interface{ Int64() (int64, error) }); ok {
		if seconds, err := n.Int64(); err == nil {
			return seconds, nil
		}
	}
	return 0, otherwise(v, "a number of seconds")
}

// otherwise is the error of what Vault says, or whoever answers in its place,
// where something else should be.
func otherwise(v any, want string) error {
	return fmt.Errorf("vault says %s where %s should be", wording.Short(wording.Line(fmt.Sprint(v))), want)
}

func (f *foreign) has(accessor string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.accessors[accessor]
}

func (f *foreign) add(accessor string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.accessors == nil {
		f.accessors = map[string]bool{}
	}
	f.accessors[accessor] = true
}

// keep forgets all that isn't among these, which are sorted.
func (f *foreign) keep(accessors []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.accessors, func(a string, _ bool) bool {
		_, there := slices.BinarySearch(accessors, a)
		return !there
	})
}
