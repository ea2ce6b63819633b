// Package evidence is the check that stands before every credential: it takes
// a signed request and the signed decisions on it, and says from them, the
// policy, the directory and the catalog alone whether they are enough.
//
// The workflow asks it for advice, the issuer as the last word. So nothing
// here trusts who carried the evidence. What is promised:
//   - Every call judges afresh: signatures, owners of keys, groups, policy and
//     ages, by the [Rulebook] that it is called on. Nothing is remembered.
//   - Nobody's decision counts for his own request, nobody's decision counts
//     twice, whatever keys he has, and a decision counts for the exact bytes
//     of the request that its signer saw.
//   - A decision by somebody who has left, lost his key or his group since,
//     counts no more.
//   - Whoever decides in another's place does so by a delegation that holds when
//     he signs and when it is judged; the two are one person, whose decision
//     counts once; and nobody does for who asks.
//   - Nothing is granted under a lock ([Rulebook.Under]), and who is locked
//     has no say.
//   - More evidence never widens a grant: decisions can only shorten it.
//
// What is not: evidence shows what was said, not what was withheld. Whoever
// carries it can leave a denial out, and then what is left has to satisfy
// policy by itself. A denial that ends the request does so in the issuer's
// ledger, which is what keeps it from being left out later; one of several
// that it takes is on record there, where the issuer looks for it. And evidence says nothing of
// whether a credential was issued for it before: that is the ledger's too.
package evidence

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/catalog"
	"hallpass/policy"
	"hallpass/sealed"
	"hallpass/statement"
)

// MaxDecisions is how many decisions one request can have. Every one of them
// costs a signature check each time the request is judged.
const MaxDecisions = 64

// longest is how long a grant of each kind can be. A resource of a kind that
// isn't here can't be asked for.
func longest(kind string) (time.Duration, bool) {
	switch kind {
	case catalog.KindSSH:
		return ca.MaxLifetime, true
	case catalog.KindVault:
		return access.MaxVault, true
	}
	return 0, false
}

// Known is what a judgement rests on beside the evidence and the files: what whoever
// judges was configured with, and what he knows of the request from the record.
type Known struct {
	MinGrant time.Duration // the shortest grant, limits.min_grant; zero is access.MinGrant

	// Asked is when the request was first heard of, zero if nobody knows. A
	// rule's escalation counts from then, or from the time in the request if
	// that is later: nobody reaches a step sooner by dating a request back.
	Asked time.Time

	// Extends is what is on record of the grant that the request extends; nil
	// if it extends none, or one that never was.
	Extends *access.Extended
}

func (k Known) minGrant() time.Duration {
	if k.MinGrant == 0 {
		return access.MinGrant
	}
	return k.MinGrant
}

// Judge says how a request stands in the light of all its evidence.
//
// An error, always an *access.Error, is about the evidence as such: the
// request can't be read or verified, breaks a bound, is too old, or a decision
// could never have been valid. That the answer is no is not an error but a
// standing that denies, and says why.
//
// A decision whose signer's key, name, group or PIN doesn't suffice (any more)
// is dropped, with a note in Standing.Dropped. A valid denial by anyone whose
// approval would count denies, or as many of them as policy asks for.
func (r *Rulebook) Judge(ev access.Evidence, now time.Time, known Known) (access.Standing, error) {
	standing, _, err := r.Settle(ev, now, known)
	return standing, err
}

// Settle is Judge, and says what of the evidence the standing rests on: the
// request and the decisions that count, in their order, with the delegations
// that some of them rest on. What was dropped isn't in it. Anybody can make a decision that is dropped, in anybody's name, so a
// record of who approved must not be made of ev.
func (r *Rulebook) Settle(ev access.Evidence, now time.Time, known Known) (access.Standing, access.Evidence, error) {
	c, counts, err := r.weigh(ev, now, known)
	if err != nil {
		return access.Standing{}, access.Evidence{}, err
	}
	standing, err := c.close()
	if err != nil {
		return access.Standing{}, access.Evidence{}, err
	}
	counts.Delegations = c.given
	return standing, counts, nil
}

// weigh opens the request and hears the decisions on it, and says which of them count.
func (r *Rulebook) weigh(ev access.Evidence, now time.Time, known Known) (*check, access.Evidence, error) {
	if len(ev.Decisions) > MaxDecisions {
		return nil, access.Evidence{}, crowded(len(ev.Decisions))
	}
	c, err := r.open(ev.Request, now, known)
	if err != nil {
		return nil, access.Evidence{}, err
	}
	counts := access.Evidence{Request: ev.Request}
	for _, st := range ev.Decisions {
		before := len(c.standing.Voices)
		v, err := statement.Verify(st, access.TypeDecision)
		if err == nil {
			err = c.hear(v)
		}
		if err != nil {
			return nil, access.Evidence{}, err
		}
		if len(c.standing.Voices) > before {
			counts.Decisions = append(counts.Decisions, st)
		}
	}
	return c, counts, nil
}

func crowded(decisions int) error {
	return access.Errorf(access.CodeMalformed, "evidence has %d decisions; at most %d are heard", decisions, MaxDecisions)
}

// Hear judges one more decision, strictly: what Judge would drop is refused
// here, and so is an approval of what is denied already. It returns the new
// standing and the evidence that it rests on; ev is not changed.
func (r *Rulebook) Hear(ev access.Evidence, decision access.Statement, now time.Time, known Known) (access.Standing, access.Evidence, error) {
	fail := func(err error) (access.Standing, access.Evidence, error) {
		return access.Standing{}, access.Evidence{}, err
	}
	c, _, err := r.weigh(ev, now, known)
	if err != nil {
		return fail(err)
	}
	before, err := c.close()
	if err != nil {
		return fail(err)
	}
	v, err := statement.Verify(decision, access.TypeDecision)
	if err != nil {
		return fail(err)
	}
	d, _, err := statement.ReadDecision(v, r.Directory)
	if err != nil {
		return fail(err)
	}
	if before.Effect == access.EffectDeny && d.Verdict == access.Approve {
		return fail(access.Errorf(access.CodeDenied, "the request is denied already: %s", before.Why))
	}
	after := access.Evidence{Request: ev.Request, Decisions: append(slices.Clone(ev.Decisions), decision)}
	if n := len(after.Decisions); n > MaxDecisions {
		return fail(crowded(n))
	}
	if err := c.hear(v); err != nil {
		return fail(err)
	}
	standing, err := c.close()
	if err != nil {
		return fail(err)
	}
	if len(standing.Voices) != len(before.Voices)+1 {
		if i := slices.IndexFunc(before.Voices, func(v access.Voice) bool { return sameSay(v, d) }); i >= 0 {
			return fail(decided(before.Voices[i].Who(), d.Request))
		}
		if lock, locked := r.lockOn(d.Signer, access.Resource{}, now); locked {
			return fail(access.Errorf(access.CodeForbidden, "%s, so his word doesn't count", lock.Why()))
		}
		if n := len(standing.Dropped); d.For != "" && n > 0 {
			return fail(access.Errorf(access.CodeForbidden, "%s", standing.Dropped[n-1]).WithHint("hallpass delegations"))
		}
		// The signature is good and the signer is known, so what dropped
		// the decision is that he has no say in this, or not yet.
		if u, _ := r.Directory.User(d.Signer); len(standing.Dropped) > 0 {
			if first, ok := firstAsked(standing.Ruling.Needs, policy.Voter{User: u}); ok {
				return fail(access.Errorf(access.CodeForbidden, "%s, when it has waited for %s",
					standing.Dropped[len(standing.Dropped)-1], access.ShortDuration(first)))
			}
		}
		return fail(forbidden(standing.Ruling))
	}
	return standing, after, nil
}

// Unneeded says whether a decision is somebody's approval of what policy allows
// by now without any, and how the request stands then. Hear refuses it; whoever
// waits for approvals waits for nothing, and may go on.
func (r *Rulebook) Unneeded(ev access.Evidence, decision access.Statement, now time.Time, known Known) (access.Standing, bool) {
	d, _, err := statement.OpenDecision(decision, r.Directory)
	if err != nil || d.Verdict != access.Approve || d.RequestHash != ev.Request.Hash() {
		return access.Standing{}, false
	}
	standing, err := r.Judge(ev, now, known)
	if err != nil || standing.Effect != access.EffectAllow || len(standing.Ruling.Needs) > 0 || d.Signer == standing.Request.Signer {
		return access.Standing{}, false
	}
	return standing, true
}

func forbidden(ruling access.Ruling) error {
	if len(ruling.Needs) == 0 {
		return access.Errorf(access.CodeForbidden, "the request needs nobody's approval").
			WithHint("to end it: hallpass revoke")
	}
	var groups []string
	for _, n := range ruling.Needs {
		for _, s := range n.Sets {
			groups = append(groups, s.Groups...)
		}
	}
	slices.Sort(groups)
	return access.Errorf(access.CodeForbidden, "the signer is in none of the groups that decide on this request: %s",
		strings.Join(slices.Compact(groups), ", "))
}

// CheckStop checks a release, revoke or cancel of a request. Release and
// cancel are the requester's. A revoke is for everyone who may approve such a
// request or is in one of the groups that policy lets revoke, and never for
// the requester himself.
//
// Stopping must work when granting wouldn't: after the requester has left the
// directory, the resource the catalog, or policy has changed so that no rule
// applies any more. Where policy names nobody for this request, everybody may
// revoke it whom any rule names as approver or revoker; where a rule asks other
// systems whether it holds, so may everybody whom it names. The request's own
// signature is checked, but no longer whose key it is: that was asked when it
// was judged.
func (r *Rulebook) CheckStop(request access.Statement, st access.Statement, typ access.Type, now time.Time) (access.Stop, access.User, error) {
	fail := func(err error) (access.Stop, access.User, error) { return access.Stop{}, access.User{}, err }
	if typ != access.TypeRelease && typ != access.TypeRevoke && typ != access.TypeCancel {
		return fail(access.Errorf(access.CodeMalformed, "a %q stops nothing; it has to be release, revoke or cancel", string(typ)))
	}
	v, err := statement.Verify(request, access.TypeRequest)
	if err != nil {
		return fail(err)
	}
	req, err := statement.ParseRequest(v.Payload)
	if err != nil {
		return fail(err)
	}
	stop, user, err := statement.OpenStop(st, typ, r.Directory)
	if err != nil {
		return fail(err)
	}
	if stop.Request != req.ID || stop.RequestHash != request.Hash() {
		return fail(mismatch(typ))
	}
	if err := checkTime(string(typ), stop.Time, req.Time, now); err != nil {
		return fail(err)
	}
	own := user.Name == req.Signer
	switch {
	case typ != access.TypeRevoke && !own:
		return fail(access.Errorf(access.CodeForbidden, "only %s can %s this request", req.Signer, typ).
			WithHint("to take it away from %s: hallpass revoke", req.Signer))
	case typ == access.TypeRevoke && own:
		return fail(access.Errorf(access.CodeForbidden, "nobody revokes a grant of his own").
			WithHint("give it back: hallpass release"))
	case typ == access.TypeRevoke && !r.mayRevoke(req, user, now):
		return fail(access.Errorf(access.CodeForbidden, "%s is in none of the groups that may revoke this", user.Name))
	}
	return stop, user, nil
}

// mayRevoke says whether u may take away what req asked for. Nobody asks other
// systems for that, or what the request extends: whom a rule names that may
// have held by what they say may as well.
func (r *Rulebook) mayRevoke(req access.Request, u access.User, now time.Time) bool {
	in := r.input(req, nil, now)
	ruling := r.Policy.Decide(in)
	groups := ruling.Revokers
	if len(ruling.Needs) == 0 && len(groups) == 0 {
		groups = r.Policy.Groups()
	}
	groups = slices.Concat(groups, r.Policy.Undecided(in))
	return policy.Eligible(ruling.Needs, policy.Voter{User: u, Waited: policy.Ever}) ||
		slices.ContainsFunc(u.Groups, func(g string) bool { return slices.Contains(groups, g) })
}

// Decide is what policy says of a request, taken as it is, at now, by the facts
// of the rulebook, and also where requester or resource have left the files; x
// is what it extends.
func (r *Rulebook) Decide(req access.Request, x *access.Extended, now time.Time) access.Ruling {
	return r.Policy.Decide(r.input(req, x, now))
}

func (r *Rulebook) input(req access.Request, x *access.Extended, now time.Time) policy.Input {
	requester, ok := r.Directory.User(req.Signer)
	if !ok {
		requester = access.User{Name: req.Signer}
	}
	return policy.Input{Request: req, Requester: requester, Resource: r.resource(req.Resource), Now: now, Extends: x, Context: r.facts.Values(), Failed: r.facts.Unknown()}
}

// check is one judgement under way.
type check struct {
	book     *Rulebook
	now      time.Time
	known    Known
	hash     string             // of the request's payload
	heard    map[string]string  // whose say was used, and who used it
	given    []access.Statement // delegations that decisions which count rest on
	asked    time.Time          // what waiting counts from
	approved []policy.Voter
	denied   []policy.Voter
	ended    string    // why the denials end it, "" while they don't
	last     time.Time // of everything that counts
	lock     access.Lock
	locked   bool // by lock
	standing access.Standing
}

// open verifies the request and applies its bounds and the policy.
func (r *Rulebook) open(st access.Statement, now time.Time, known Known) (*check, error) {
	req, requester, err := statement.OpenRequest(st, r.Directory)
	if err != nil {
		return nil, err
	}
	resource, ok := r.Catalog.Resource(req.Resource)
	if !ok {
		return nil, access.Errorf(access.CodeNotFound, "there is no resource %s in the catalog", req.Resource).
			WithHint("to see what there is: hallpass resources")
	}
	if req.Time.After(now.Add(access.ClockSkew)) {
		return nil, future("request")
	}
	if err := checkStart(req); err != nil {
		return nil, err
	}
	if least := known.minGrant(); req.Duration.Duration() < least {
		return nil, access.Errorf(access.CodeMalformed, "duration %s is shorter than %s, the shortest grant", req.Duration, access.ShortDuration(least))
	}
	if err := r.checkKind(req, requester, resource); err != nil {
		return nil, err
	}
	if err := checkExtends(req, known.Extends); err != nil {
		return nil, err
	}
	if req.Extends == "" {
		known.Extends = nil
	}
	ruling := r.Policy.Decide(policy.Input{Request: req, Requester: requester, Resource: resource, Now: now, Extends: known.Extends, Context: r.facts.Values(), Failed: r.facts.Unknown()})
	ruling.Digests, ruling.Context = r.Digests(), r.facts
	if most, _ := longest(resource.Kind); ruling.Effect != access.EffectDeny && req.Duration.Duration() > most {
		ruling.Effect = access.EffectDeny
		ruling.Why = fmt.Sprintf("%s is longer than the %s that is possible for kind %s", req.Duration, access.ShortDuration(most), resource.Kind)
	}
	lock, locked := r.lockOn(req.Signer, resource, now)
	asked := req.Time
	if heard := known.Asked.UTC().Truncate(time.Second); heard.After(asked) {
		asked = heard
	}
	last := req.Time
	if req.Start != nil && req.Start.After(last) {
		last = *req.Start
	}
	return &check{
		book: r, now: now, known: known, hash: st.Hash(), heard: map[string]string{}, asked: asked, last: last,
		lock: lock, locked: locked,
		standing: access.Standing{Ruling: ruling, Request: req, Resource: resource, Extends: known.Extends},
	}, nil
}

// checkExtends checks that a request which extends a grant is by whom that was
// for, and asks for the same. Whether the grant still runs, the ledger says.
func checkExtends(req access.Request, e *access.Extended) error {
	if req.Extends == "" {
		return nil
	}
	if e == nil || e.Request != req.Extends {
		return access.Errorf(access.CodeNotFound, "request %s, which this one extends, was never granted", req.Extends)
	}
	was, err := statement.ParseRequest([]byte(e.Statement.Payload))
	if err != nil {
		return err
	}
	switch {
	case was.Signer != req.Signer:
		return access.Errorf(access.CodeForbidden, "the grant of request %s is %s's", was.ID, was.Signer)
	case was.Resource != req.Resource || was.Login != req.Login || was.Command != req.Command || !slices.Equal(was.Actions, req.Actions):
		return access.Errorf(access.CodeMismatch, "an extension asks for what the grant of request %s is for, and nothing else", was.ID)
	}
	return nil
}

func checkStart(req access.Request) error {
	switch {
	case req.Start == nil:
		return nil
	case req.Start.Before(req.Time):
		return access.Errorf(access.CodeMalformed, "start lies before the request itself")
	case req.Start.After(req.Time.Add(access.MaxAhead)):
		return access.Errorf(access.CodeMalformed, "start is more than %s ahead", access.ShortDuration(access.MaxAhead))
	}
	return nil
}

// checkKind applies what the kind of resource asks of a request.
func (r *Rulebook) checkKind(req access.Request, requester access.User, resource access.Resource) error {
	for _, a := range req.Actions {
		if !slices.Contains(resource.Actions, a) {
			return access.Errorf(access.CodeNotFound, "%s has no action %q%s", resource.Name, a, choice(resource.Actions))
		}
	}
	switch resource.Kind {
	case catalog.KindVault:
		return checkVault(req, resource)
	case catalog.KindSSH:
		if req.Login == "" {
			return access.Errorf(access.CodeMalformed, "request names no login%s", choice(resource.Logins))
		}
		if !slices.Contains(resource.Logins, req.Login) {
			return access.Errorf(access.CodeNotFound, "%s has no login %q%s", resource.Name, req.Login, choice(resource.Logins))
		}
		if req.PublicKey == "" {
			return access.Errorf(access.CodeMalformed, "request has no public_key to certify")
		}
		key, err := statement.ParseKey(req.PublicKey)
		if err != nil {
			return err
		}
		// Whoever holds the private half could log in: it has to be the
		// requester's, or a key that nobody signs with.
		if owner, ok := r.Directory.Owner(key); ok && owner.Name != requester.Name {
			return access.Errorf(access.CodeForbidden, "public_key belongs to %s", owner.Name).
				WithHint("leave --key out: a fresh key is made for each request")
		}
		return nil
	}
	return access.Errorf(access.CodeMalformed, "there is no issuer for resources of kind %s", resource.Kind)
}

// checkVault applies what resources of kind vault ask of a request.
func checkVault(req access.Request, resource access.Resource) error {
	for _, f := range []struct{ name, value string }{{"login", req.Login}, {"command", req.Command}, {"public_key", req.PublicKey}} {
		if f.value != "" {
			return access.Errorf(access.CodeMalformed, "request names a %s, which is only for resources of kind ssh", f.name)
		}
	}
	if len(req.Actions) == 0 {
		return access.Errorf(access.CodeMalformed, "request names no action%s", choice(resource.Actions))
	}
	if req.Recipient == "" {
		return access.Errorf(access.CodeMalformed, "request has no recipient to encrypt the secret to")
	}
	return sealed.CheckRecipient(req.Recipient)
}

// hear weighs one decision, whose signature is good. An error means that it never
// was valid.
func (c *check) hear(v statement.Verified) error {
	owner, err := c.owner(v.Key)
	if err != nil {
		return err
	}
	d, err := statement.ParseDecision(v.Payload)
	if err != nil {
		return err
	}
	if err := c.valid(d); err != nil {
		return err
	}
	if why := c.disowned(d, owner, v); why != "" {
		return c.drop(d, why)
	}
	if d.For == "" && c.heard[d.Signer] == d.Signer {
		return decided(d.Signer, d.Request)
	}
	// Of two people with one say the first counts. That is no error: which of
	// them still counts can change until it is judged again.
	for _, name := range says(d) {
		if who := c.heard[name]; who != "" {
			return c.drop(d, who+" has decided already")
		}
	}
	voter, given, why := c.voter(d, owner)
	if why == "" {
		why = c.unasked(d, voter)
	}
	if why != "" {
		return c.drop(d, why)
	}
	c.count(d, voter, given)
	return nil
}

// valid checks what no later day changes of a decision: what it is about, who may
// never make it, when it was made, and how long a grant it is for.
func (c *check) valid(d access.Decision) error {
	req := c.standing.Request
	switch {
	case d.Request != req.ID || d.RequestHash != c.hash:
		return mismatch(access.TypeDecision)
	case d.Signer == req.Signer:
		return selfDecision()
	case d.For == req.Signer:
		return access.Errorf(access.CodeForbidden, "nobody decides in the place of %s, who asks", req.Signer)
	}
	if err := checkTime("decision", d.Time, req.Time, c.now); err != nil {
		return err
	}
	if d.Verdict != access.Approve || d.Duration == 0 {
		return nil
	}
	if d.Duration > req.Duration {
		return access.Errorf(access.CodeForbidden, "approval is for %s, longer than the %s asked for", d.Duration, req.Duration).
			WithHint("an approver can shorten a grant, never widen it")
	}
	if least := c.known.minGrant(); d.Duration.Duration() < least {
		return access.Errorf(access.CodeMalformed, "approval is for %s, shorter than %s, the shortest grant", d.Duration, access.ShortDuration(least))
	}
	return nil
}

// disowned says why a decision isn't its signer's word, or not now, or "": the owner
// is whose key signed it.
func (c *check) disowned(d access.Decision, owner access.User, v statement.Verified) string {
	switch {
	case owner.Name == "":
		return "the key is nobody's in the directory"
	case owner.Name != d.Signer:
		return "the key belongs to " + owner.Name
	case c.book.Directory.PinRequired(owner.Name) && !v.UserVerified:
		return "it was signed without PIN"
	}
	if lock, locked := c.book.lockOn(owner.Name, access.Resource{}, c.now); locked {
		return lock.Why()
	}
	return ""
}

// says are the people whose say a decision uses.
func says(d access.Decision) []string {
	if d.For == "" {
		return []string{d.Signer}
	}
	return []string{d.Signer, d.For}
}

// voter is the signer as policy sees him, with the groups of the one in whose place
// he decides and the delegations that this rests on; or why he can't do that.
func (c *check) voter(d access.Decision, signer access.User) (v policy.Voter, given []access.Statement, why string) {
	if d.For != "" {
		signer.Groups, given, why = c.instead(d)
	}
	// It has to have waited by both clocks, the signer's and ours.
	waited := min(d.Time.Sub(c.asked), c.now.Sub(c.asked))
	return policy.Voter{User: signer, Waited: waited, Instead: d.For != ""}, given, why
}

// unasked says why policy doesn't ask this voter, or not yet, or "".
func (c *check) unasked(d access.Decision, voter policy.Voter) string {
	needs := c.standing.Ruling.Needs
	if policy.Eligible(needs, voter) {
		return ""
	}
	if rules := policy.InPerson(needs, voter); rules != nil {
		return policy.WantsInPerson(rules)
	}
	groups, none := "the signer's groups", "the signer is in none"
	if d.For != "" {
		groups, none = "the groups that "+d.For+" has delegated", d.For+" has delegated none"
	}
	if first, ok := firstAsked(needs, voter); ok {
		return groups + " are not asked before " + c.asked.Add(first).Format(time.RFC3339)
	}
	return none + " of the groups that decide on it"
}

// count lets a decision count.
func (c *check) count(d access.Decision, voter policy.Voter, given []access.Statement) {
	voice := access.Voice{Signer: d.Signer, For: d.For, Verdict: d.Verdict, Duration: d.Duration, Comment: d.Comment, Time: d.Time}
	for _, name := range says(d) {
		c.heard[name] = voice.Who()
	}
	for _, st := range given {
		if !slices.Contains(c.given, st) {
			c.given = append(c.given, st)
		}
	}
	c.standing.Voices = append(c.standing.Voices, voice)
	if d.Time.After(c.last) {
		c.last = d.Time
	}
	if d.Verdict != access.Deny {
		c.approved = append(c.approved, voter)
		return
	}
	c.denied = append(c.denied, voter)
	if c.ended == "" && policy.Denied(c.standing.Ruling.Needs, c.denied) {
		c.ended = "denied by " + c.who(access.Deny)
		if d.Comment != "" {
			c.ended += ": " + d.Comment
		}
	}
}

// who lists for people whose words of a kind count, in order.
func (c *check) who(said access.Verdict) string {
	var out []string
	for _, v := range c.standing.Voices {
		if v.Verdict == said {
			out = append(out, v.Who())
		}
	}
	return strings.Join(out, ", ")
}

// sameSay says whether a decision would use a say that a voice has used.
func sameSay(v access.Voice, d access.Decision) bool {
	return v.Signer == d.Signer || v.For == d.Signer || d.For != "" && (v.Signer == d.For || v.For == d.For)
}

func decided(who, request string) error {
	return access.Errorf(access.CodeDuplicate, "%s has decided on this request already", who).
		WithHint("to take an approval back: hallpass revoke %s", request)
}

// firstAsked is the first step of the escalation that lets v decide, if there
// is one.
func firstAsked(needs []access.Need, v policy.Voter) (time.Duration, bool) {
	for _, step := range policy.Steps(needs, policy.Ever) {
		if v.Waited = step.After.Duration(); policy.Eligible(needs, v) {
			return step.After.Duration(), true
		}
	}
	return 0, false
}

// owner finds whose key signed. It is asked before the payload is believed in
// anything: that a key is the requester's counts, not what name it uses.
func (c *check) owner(key ssh.PublicKey) (access.User, error) {
	owner, ok := c.book.Directory.Owner(key)
	if ok && owner.Name == c.standing.Request.Signer {
		return access.User{}, selfDecision()
	}
	return owner, nil
}

func (c *check) drop(d access.Decision, why string) error {
	c.standing.Dropped = append(c.standing.Dropped, fmt.Sprintf("%s by %s doesn't count: %s", d.Verdict, access.Who(d.Signer, d.For), why))
	return nil
}

// close sums up what was heard so far, and may do so again.
func (c *check) close() (access.Standing, error) {
	s, ruling := c.standing, c.standing.Ruling
	if c.now.After(c.last.Add(access.EvidenceAge)) {
		return access.Standing{}, access.Errorf(access.CodeStale, "the evidence is older than %s", access.ShortDuration(access.EvidenceAge)).
			WithHint("ask again")
	}
	switch missing := policy.Missing(ruling.Needs, c.now.Sub(c.asked), c.approved); {
	case c.locked:
		s.Effect, s.Why = access.EffectDeny, c.lock.Why()
	case ruling.Effect == access.EffectDeny:
		s.Effect, s.Why = access.EffectDeny, ruling.Why
	case c.ended != "":
		s.Effect, s.Why = access.EffectDeny, c.ended
	case len(missing) > 0:
		s.Effect, s.Why, s.Missing = access.EffectAsk, "needs "+policy.Describe(missing), missing
		s.Unsure = !slices.ContainsFunc(ruling.Needs, func(n access.Need) bool {
			return len(policy.Missing([]access.Need{n}, c.now.Sub(c.asked), c.approved)) > 0 && !c.book.Policy.Unsure(n.Rule, ruling.Context.Unknown())
		})
		if against := policy.Objections(ruling.Needs, c.denied); against != "" {
			s.Why += "; has " + against
		}
	default:
		s.Effect, s.Why, s.Duration = access.EffectAllow, ruling.Why, s.Request.Duration
		if len(ruling.Needs) > 0 {
			s.Why = "approved by " + c.who(access.Approve)
		}
		for _, v := range s.Voices {
			if v.Duration != 0 {
				s.Duration = min(s.Duration, v.Duration)
			}
		}
	}
	return s, nil
}

// checkTime bounds the time of a statement about a request.
func checkTime(what string, at, request, now time.Time) error {
	switch {
	case at.After(now.Add(access.ClockSkew)):
		return future(what)
	case at.Before(request.Add(-access.ClockSkew)):
		return access.Errorf(access.CodeStale, "%s is older than the request it is about", what)
	}
	return nil
}

func future(what string) error {
	return access.Errorf(access.CodeStale, "%s is dated more than %s in the future", what, access.ShortDuration(access.ClockSkew)).
		WithHint("compare the clocks of the two machines")
}

func mismatch(typ access.Type) error {
	return access.Errorf(access.CodeMismatch, "%s is about another request, or this one was changed since", typ)
}

func selfDecision() error {
	return access.Errorf(access.CodeForbidden, "nobody decides on a request of his own").
		WithHint("somebody else has to approve it; to withdraw it: hallpass cancel")
}

// choice lists what could have been asked for.
func choice(of []string) string {
	if len(of) == 0 {
		return ""
	}
	return "; there is " + strings.Join(of, ", ")
}
