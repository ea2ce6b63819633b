package evidence

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
	"hallpass/testsuite/measure"
)

// asked is when alice's request is signed, a Friday.
var asked = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

const (
	day     = 24 * time.Hour
	skew    = access.ClockSkew
	someID  = "01934567-89ab-7def-8123-456789abcdef"
	otherID = "01934567-89ab-7def-8123-456789abcd00"
)

const testPolicy = `
rules:
  - name: web
    when: resource.labels.role == "web"
    max_duration: 8h
    approvals: [{count: 1, from: [sre]}]
    revoke: [sec]
  - name: two
    when: resource.labels.role == "two"
    approvals: [{count: 2, from: [sre]}]
  - name: majority
    when: resource.labels.role == "majority"
    approvals: [{count: 1, from: [sre]}, {count: 1, from: [dba]}]
    denies: 2
  - name: slow
    when: resource.labels.role == "slow"
    approvals: [{count: 2, from: [sre]}]
    escalate: [{after: 10m, ask: [dba]}, {after: 20m, notify: [sec]}]
  - name: mixed
    when: resource.labels.role == "mixed"
    approvals: [{count: 1, from: [sre]}, {count: 1, from: [dba]}]
  - name: person
    when: resource.labels.role == "person" || resource.labels.role == "half"
    approvals: [{count: 1, from: [sre]}]
    in_person: true
  - name: half
    when: resource.labels.role == "half"
    approvals: [{count: 1, from: [dba, sre]}]
    escalate: [{after: 10m, ask: [sec]}]
  - name: many
    when: resource.labels.role == "many"
    approvals: [{count: 10, from: [crowd]}]
  - name: three
    when: resource.labels.role == "three"
    approvals: [{count: 3, from: [crowd]}]
  - name: free
    when: resource.labels.role == "free"
    max_duration: 30d
    approvals: none
  - name: auto
    when: resource.labels.role == "auto"
    approvals: [{count: 1, from: [dba]}]
    auto: request.duration <= duration("30m")
  - name: freeze
    when: resource.labels.role == "web" && now.getDayOfWeek("UTC") == 6
    deny: frozen on Saturdays
`

// crowd is how many users there are in group crowd.
const crowd = MaxDecisions + 1

// world is a rulebook with all its users' private keys.
type world struct {
	t      testing.TB
	groups map[string][]string
	keys   map[string][]string // signers' names by user
	pin    map[string]bool
	policy string
	roles  []string
	cache  *Rulebook
}

func newWorld(t testing.TB) *world {
	w := &world{
		t: t,
		groups: map[string][]string{
			"alice": {"dev", "sre"}, // in the approving group herself
			"bob":   {"sre"}, "carol": {"sre"}, "dave": {"dba"}, "erin": {"sec"}, "mallory": {"dev"},
		},
		keys:   map[string][]string{"alice": {"alice", "alice2"}, "bob": {"bob", "bob2"}},
		pin:    map[string]bool{},
		policy: testPolicy,
		roles:  []string{"web", "two", "majority", "slow", "mixed", "person", "half", "many", "three", "free", "auto", "none"},
	}
	for i := range crowd {
		w.groups[fmt.Sprintf("u%02d", i)] = []string{"crowd"}
	}
	return w
}

// signer is the key of a name, always the same. Names that begin with "sk-"
// are security keys, those with "sk-pin-" were unlocked by PIN.
func signer(name string) ssh.Signer {
	seed := sha256.Sum256([]byte(name))
	if strings.HasPrefix(name, "sk-") {
		return securityKey{ed25519.NewKeyFromSeed(seed[:]), strings.HasPrefix(name, "sk-pin-")}
	}
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		panic(err)
	}
	return s
}

// securityKey signs as a touched FIDO key does (PROTOCOL.u2f).
type securityKey struct {
	key ed25519.PrivateKey
	pin bool
}

func (s securityKey) PublicKey() ssh.PublicKey {
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type string
		Key  []byte
		App  string
	}{ssh.KeyAlgoSKED25519, s.key.Public().(ed25519.PublicKey), "ssh:"}))
	if err != nil {
		panic(err)
	}
	return key
}

func (s securityKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	state := []byte{1, 0, 0, 0, 7} // touched; a counter of 7
	if s.pin {
		state[0] |= 4
	}
	app, message := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	blob := ed25519.Sign(s.key, slices.Concat(app[:], state, message[:]))
	return &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: blob, Rest: state}, nil
}

func publicKey(name string) string { return statement.MarshalKey(signer(name).PublicKey()) }

// change forgets the rulebook that was made.
func (w *world) change(f func(*world)) *world {
	c := *w
	c.groups, c.keys, c.pin, c.roles = maps.Clone(w.groups), maps.Clone(w.keys), maps.Clone(w.pin), slices.Clone(w.roles)
	c.cache = nil
	f(&c)
	return &c
}

func (w *world) directory() []byte {
	var dir strings.Builder
	dir.WriteString("users:\n")
	for _, user := range slices.Sorted(maps.Keys(w.groups)) {
		fmt.Fprintf(&dir, "  %s:\n", user)
		if g := w.groups[user]; len(g) > 0 {
			fmt.Fprintf(&dir, "    groups: [%s]\n", strings.Join(g, ", "))
		}
		if w.pin[user] {
			dir.WriteString("    pin: required\n")
		}
		keys := w.keys[user]
		if keys == nil {
			keys = []string{user}
		}
		dir.WriteString("    keys:\n")
		for _, k := range keys {
			fmt.Fprintf(&dir, "      - %s\n", publicKey(k))
		}
	}
	return []byte(dir.String())
}

func (w *world) catalog() []byte {
	var cat strings.Builder
	cat.WriteString("resources:\n")
	for _, role := range w.roles {
		fmt.Fprintf(&cat, "  ssh/%s:\n    labels: {role: %s}\n    logins: [deploy, root]\n", role, role)
	}
	cat.WriteString("  vault/db:\n    labels: {role: free}\n    path: database/creds\n    actions: {read: orders-ro, dump: orders-dump}\n")
	return []byte(cat.String())
}

func (w *world) book() *Rulebook {
	w.t.Helper()
	if w.cache == nil {
		book, err := NewRulebook([]byte(w.policy), w.directory(), w.catalog())
		if err != nil {
			w.t.Fatal(err)
		}
		w.cache = book
	}
	return w.cache
}

func sign(t testing.TB, key string, payload any) access.Statement {
	t.Helper()
	st, err := statement.Sign(signer(key), payload)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

type requestOption func(*access.Request)

func on(role string) requestOption {
	return func(r *access.Request) { r.Resource = "ssh/" + role }
}

// vault asks for actions of vault/db; for read if none is named.
func vault(actions ...string) requestOption {
	return func(r *access.Request) {
		r.Resource, r.Login, r.PublicKey = "vault/db", "", ""
		if r.Actions = actions; actions == nil {
			r.Actions = []string{"read"}
		}
		r.Recipient = recipient
	}
}

// recipient is one whose key nobody keeps.
const recipient = "age1my8t3yqc96a07agylmsdjducjj7czmyv3d452hgkudhxpcwlhsuqmm5hd5"

func lasting(d time.Duration) requestOption {
	return func(r *access.Request) { r.Duration = access.InSeconds(d) }
}

func starting(d time.Duration) requestOption {
	return func(r *access.Request) {
		at := asked.Add(d)
		r.Start = &at
	}
}

// ask is alice's request, for web unless said otherwise.
func (w *world) ask(change ...requestOption) access.Statement {
	w.t.Helper()
	return w.askAs("alice", change...)
}

func (w *world) askAs(key string, change ...requestOption) access.Statement {
	w.t.Helper()
	r := access.Request{
		Header:   access.Header{Type: access.TypeRequest, ID: someID, Signer: "alice", Time: asked},
		Resource: "ssh/web", Login: "deploy", Duration: 3600, Reason: "deploy", PublicKey: publicKey("ephemeral"),
	}
	for _, f := range change {
		f(&r)
	}
	return sign(w.t, key, r)
}

type decisionOption func(*access.Decision)

func as(name string) decisionOption {
	return func(d *access.Decision) { d.Signer = name }
}

func deny(comment string) decisionOption {
	return func(d *access.Decision) { d.Verdict, d.Comment = access.Deny, comment }
}

func atMost(t time.Duration) decisionOption {
	return func(d *access.Decision) { d.Duration = access.InSeconds(t) }
}

func at(after time.Duration) decisionOption {
	return func(d *access.Decision) { d.Time = asked.Add(after) }
}

// decide approves the request with a key, a minute after it was asked.
func (w *world) decide(request access.Statement, key string, change ...decisionOption) access.Statement {
	w.t.Helper()
	d := access.Decision{
		Header:  access.Header{Type: access.TypeDecision, ID: statement.NewID(), Signer: key, Time: asked.Add(time.Minute)},
		Request: someID, RequestHash: request.Hash(), Verdict: access.Approve,
	}
	for _, f := range change {
		f(&d)
	}
	return sign(w.t, key, d)
}

func evidence(request access.Statement, decisions ...access.Statement) access.Evidence {
	return access.Evidence{Request: request, Decisions: decisions}
}

// verdict is what a test wants: an effect, or an error's code.
type verdict struct {
	effect   access.Effect
	code     access.Code
	why      string // Standing.Why or the error, as a whole
	duration time.Duration
	dropped  []string
	voices   string // names of those whose decisions count
}

func (v verdict) check(t *testing.T, got access.Standing, err error) {
	t.Helper()
	if v.code != "" || err != nil {
		if access.CodeOf(err) != v.code || err == nil || err.Error() != v.why {
			t.Fatalf("got error %q: %v\nwant      %q: %s", access.CodeOf(err), err, v.code, v.why)
		}
		if diff := cmp.Diff(access.Standing{}, got); diff != "" {
			t.Errorf("an error with a standing: %s", diff)
		}
		return
	}
	if got.Effect != v.effect || got.Why != v.why {
		t.Errorf("got  %s: %s\nwant %s: %s", got.Effect, got.Why, v.effect, v.why)
	}
	if got.Duration.Duration() != v.duration {
		t.Errorf("granted for %s, want %s", got.Duration, v.duration)
	}
	if (got.Effect == access.EffectAsk) != (len(got.Missing) > 0) {
		t.Errorf("%s, and missing is %v", got.Effect, got.Missing)
	}
	if diff := cmp.Diff(v.dropped, got.Dropped); diff != "" {
		t.Errorf("dropped: %s", diff)
	}
	var voices []string
	for _, voice := range got.Voices {
		voices = append(voices, voice.Signer)
	}
	if s := strings.Join(voices, " "); s != v.voices {
		t.Errorf("voices %q, want %q", s, v.voices)
	}
}

// TestJudge is what the issuer rests on. Each row is evidence that somebody
// who owns everything but the users' keys could bring before it.
func TestJudge(t *testing.T) {
	w := newWorld(t)
	web, two, mixed := w.ask(), w.ask(on("two")), w.ask(on("mixed"))
	needsBob := verdict{effect: access.EffectAsk, why: "needs 1 approval from sre"}
	with := func(v verdict, change func(*verdict)) verdict { change(&v); return v }
	dropping := func(v verdict, dropped ...string) verdict {
		return with(v, func(v *verdict) { v.dropped = dropped })
	}
	allowed := func(d time.Duration, voices string) verdict {
		return verdict{effect: access.EffectAllow, why: "approved by " + strings.ReplaceAll(voices, " ", ", "), duration: d, voices: voices}
	}
	refused := func(code access.Code, why string) verdict { return verdict{code: code, why: why} }
	alone := refused(access.CodeForbidden, "nobody decides on a request of his own")
	otherRequest := refused(access.CodeMismatch, "decision is about another request, or this one was changed since")

	pin := w.change(func(w *world) {
		w.pin["bob"], w.keys["bob"], w.keys["carol"] = true, []string{"sk-bob", "sk-pin-bob"}, []string{"sk-carol"}
	})

	for name, c := range map[string]struct {
		ev   access.Evidence
		w    *world // w unless set
		want verdict
	}{
		"no decision yet": {evidence(web), nil, needsBob},
		"approved":        {evidence(web, w.decide(web, "bob")), nil, allowed(time.Hour, "bob")},
		"by either key":   {evidence(web, w.decide(web, "bob2", as("bob"))), nil, allowed(time.Hour, "bob")},
		"no need to ask": {evidence(w.ask(on("free"))), nil,
			verdict{effect: access.EffectAllow, why: `allowed by rule "free"`, duration: time.Hour}},
		"waived": {evidence(w.ask(on("auto"), lasting(30*time.Minute))), nil,
			verdict{effect: access.EffectAllow, why: `allowed by rule "auto"`, duration: 30 * time.Minute}},
		"not waived":       {evidence(w.ask(on("auto"), lasting(31*time.Minute))), nil, verdict{effect: access.EffectAsk, why: "needs 1 approval from dba"}},
		"no rule":          {evidence(w.ask(on("none"))), nil, verdict{effect: access.EffectDeny, why: "no rule allows this"}},
		"one of two":       {evidence(two, w.decide(two, "bob")), nil, with(needsBob, func(v *verdict) { v.voices = "bob" })},
		"two of two":       {evidence(two, w.decide(two, "bob"), w.decide(two, "carol")), nil, allowed(time.Hour, "bob carol")},
		"one of each":      {evidence(mixed, w.decide(mixed, "dave"), w.decide(mixed, "bob")), nil, allowed(time.Hour, "dave bob")},
		"two of one":       {evidence(mixed, w.decide(mixed, "carol"), w.decide(mixed, "bob")), nil, verdict{effect: access.EffectAsk, why: "needs 1 approval from dba", voices: "carol bob"}},
		"more than needed": {evidence(web, w.decide(web, "bob"), w.decide(web, "carol")), nil, allowed(time.Hour, "bob carol")},

		// Self-approval.
		"by oneself":                                {evidence(web, w.decide(web, "alice")), nil, alone},
		"by oneself, with another key":              {evidence(web, w.decide(web, "alice2", as("alice"))), nil, alone},
		"by oneself, under another name":            {evidence(web, w.decide(web, "alice2", as("bob"))), nil, alone},
		"by oneself, under a made-up name":          {evidence(web, w.decide(web, "alice2", as("zoe"))), nil, alone},
		"a denial of one's own":                     {evidence(web, w.decide(web, "alice", deny(""))), nil, alone},
		"asked with one key, approved with another": {evidence(w.askAs("alice2"), w.decide(w.askAs("alice2"), "alice")), nil, alone},
		"by oneself, with a key nobody knows":       {evidence(web, w.decide(web, "ephemeral", as("alice"))), nil, alone},

		// One person, two votes.
		"the same statement twice": {evidence(two, w.decide(two, "bob", func(d *access.Decision) { d.ID = otherID }), w.decide(two, "bob", func(d *access.Decision) { d.ID = otherID })), nil,
			refused(access.CodeDuplicate, "bob has decided on this request already")},
		"one person, two statements": {evidence(two, w.decide(two, "bob"), w.decide(two, "bob")), nil, refused(access.CodeDuplicate, "bob has decided on this request already")},
		"one person, two keys":       {evidence(two, w.decide(two, "bob"), w.decide(two, "bob2", as("bob"))), nil, refused(access.CodeDuplicate, "bob has decided on this request already")},
		"one person, two names": {evidence(two, w.decide(two, "bob"), w.decide(two, "bob2", as("carol"))), nil,
			verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", voices: "bob", dropped: []string{"approve by carol doesn't count: the key belongs to bob"}}},
		"changed his mind": {evidence(web, w.decide(web, "bob"), w.decide(web, "bob", deny(""))), nil, refused(access.CodeDuplicate, "bob has decided on this request already")},

		// Another request.
		"approval of another id":          {evidence(web, w.decide(web, "bob", func(d *access.Decision) { d.Request = otherID })), nil, otherRequest},
		"approval of other bytes":         {evidence(web, w.decide(w.ask(lasting(time.Minute)), "bob")), nil, otherRequest},
		"approval of the same, reordered": {evidence(web, w.decide(access.Statement{Payload: web.Payload + "\n"}, "bob")), nil, otherRequest},
		"approval of another's request":   {evidence(web, w.decide(w.ask(on("two")), "bob")), nil, otherRequest},

		// People who can't.
		"by somebody else":                {evidence(web, w.decide(web, "dave")), nil, dropping(needsBob, "approve by dave doesn't count: the signer is in none of the groups that decide on it")},
		"a denial by somebody else":       {evidence(web, w.decide(web, "dave", deny("no"))), nil, dropping(needsBob, "deny by dave doesn't count: the signer is in none of the groups that decide on it")},
		"by a revoker":                    {evidence(web, w.decide(web, "erin")), nil, dropping(needsBob, "approve by erin doesn't count: the signer is in none of the groups that decide on it")},
		"by a stranger":                   {evidence(web, w.decide(web, "ephemeral", as("zoe"))), nil, dropping(needsBob, "approve by zoe doesn't count: the key is nobody's in the directory")},
		"by a stranger as bob":            {evidence(web, w.decide(web, "ephemeral", as("bob"))), nil, dropping(needsBob, "approve by bob doesn't count: the key is nobody's in the directory")},
		"mallory as bob":                  {evidence(web, w.decide(web, "mallory", as("bob"))), nil, dropping(needsBob, "approve by bob doesn't count: the key belongs to mallory")},
		"forged, then real":               {evidence(web, w.decide(web, "mallory", as("bob")), w.decide(web, "bob")), nil, dropping(allowed(time.Hour, "bob"), "approve by bob doesn't count: the key belongs to mallory")},
		"where nobody is asked":           {evidence(w.ask(on("free")), w.decide(w.ask(on("free")), "bob", deny("no"))), nil, verdict{effect: access.EffectAllow, why: `allowed by rule "free"`, duration: time.Hour, dropped: []string{"deny by bob doesn't count: the signer is in none of the groups that decide on it"}}},
		"who has left":                    {evidence(web, w.decide(web, "bob")), w.change(func(w *world) { delete(w.groups, "bob") }), dropping(needsBob, "approve by bob doesn't count: the key is nobody's in the directory")},
		"who has another key now":         {evidence(web, w.decide(web, "bob")), w.change(func(w *world) { w.keys["bob"] = []string{"bob3"} }), dropping(needsBob, "approve by bob doesn't count: the key is nobody's in the directory")},
		"who is in another group now":     {evidence(web, w.decide(web, "bob")), w.change(func(w *world) { w.groups["bob"] = []string{"dev"} }), dropping(needsBob, "approve by bob doesn't count: the signer is in none of the groups that decide on it")},
		"whose key is another's now":      {evidence(web, w.decide(web, "bob")), w.change(func(w *world) { delete(w.groups, "bob"); w.keys["carol"] = []string{"bob"} }), dropping(needsBob, "approve by bob doesn't count: the key belongs to carol")},
		"who needs a PIN now":             {evidence(web, w.decide(web, "bob")), w.change(func(w *world) { w.pin["bob"], w.keys["bob"] = true, []string{"sk-bob"} }), dropping(needsBob, "approve by bob doesn't count: the key is nobody's in the directory")},
		"without the PIN":                 {evidence(web, w.decide(web, "sk-bob", as("bob"))), pin, dropping(needsBob, "approve by bob doesn't count: it was signed without PIN")},
		"with the PIN":                    {evidence(web, w.decide(web, "sk-pin-bob", as("bob"))), pin, allowed(time.Hour, "bob")},
		"without PIN where none is asked": {evidence(web, w.decide(web, "sk-carol", as("carol"))), pin, allowed(time.Hour, "carol")},
		"when policy asks for more now": {evidence(web, w.decide(web, "bob")), w.change(func(w *world) { w.policy = strings.Replace(testPolicy, "count: 1", "count: 2", 1) }),
			with(needsBob, func(v *verdict) { v.voices = "bob" })},
		"when policy says no now": {evidence(web, w.decide(web, "bob")), w.change(func(w *world) { w.policy += "  - {name: stop, when: true, deny: stop}\n" }),
			verdict{effect: access.EffectDeny, why: `stop (rule "stop")`, voices: "bob"}},

		// Denials.
		"denied":                      {evidence(web, w.decide(web, "bob", deny("not today"))), nil, verdict{effect: access.EffectDeny, why: "denied by bob: not today", voices: "bob"}},
		"denied after enough":         {evidence(web, w.decide(web, "bob"), w.decide(web, "carol", deny(""))), nil, verdict{effect: access.EffectDeny, why: "denied by carol", voices: "bob carol"}},
		"denied twice":                {evidence(web, w.decide(web, "carol", deny("a")), w.decide(web, "bob", deny("b"))), nil, verdict{effect: access.EffectDeny, why: "denied by carol: a", voices: "carol bob"}},
		"a denial of another request": {evidence(web, w.decide(two, "bob", deny(""))), nil, otherRequest},

		// Durations.
		"shortened":                 {evidence(web, w.decide(web, "bob", atMost(10*time.Minute))), nil, allowed(10*time.Minute, "bob")},
		"shortened twice":           {evidence(two, w.decide(two, "bob", atMost(20*time.Minute)), w.decide(two, "carol", atMost(10*time.Minute))), nil, allowed(10*time.Minute, "bob carol")},
		"shortened, then not":       {evidence(two, w.decide(two, "bob", atMost(20*time.Minute)), w.decide(two, "carol")), nil, allowed(20*time.Minute, "bob carol")},
		"shortened by one too many": {evidence(web, w.decide(web, "bob"), w.decide(web, "carol", atMost(time.Minute))), nil, allowed(time.Minute, "bob carol")},
		"shortened by one who can't": {evidence(web, w.decide(web, "bob"), w.decide(web, "dave", atMost(time.Minute))), nil,
			dropping(allowed(time.Hour, "bob"), "approve by dave doesn't count: the signer is in none of the groups that decide on it")},
		"to what was asked": {evidence(web, w.decide(web, "bob", atMost(time.Hour))), nil, allowed(time.Hour, "bob")},
		"widened":           {evidence(web, w.decide(web, "bob", atMost(time.Hour+time.Second))), nil, refused(access.CodeForbidden, "approval is for 1h1s, longer than the 1h asked for")},
		"widened by many":   {evidence(web, w.decide(web, "bob", atMost(time.Hour)), w.decide(web, "carol", atMost(8*time.Hour))), nil, refused(access.CodeForbidden, "approval is for 8h, longer than the 1h asked for")},
		"to the minimum":    {evidence(web, w.decide(web, "bob", atMost(time.Minute))), nil, allowed(time.Minute, "bob")},
		"below the minimum": {evidence(web, w.decide(web, "bob", atMost(59*time.Second))), nil, refused(access.CodeMalformed, "approval is for 59s, shorter than 1m, the shortest grant")},
		"asked for 1m":      {evidence(w.ask(on("free"), lasting(time.Minute))), nil, verdict{effect: access.EffectAllow, why: `allowed by rule "free"`, duration: time.Minute}},
		"asked for 59s":     {evidence(w.ask(on("free"), lasting(59*time.Second))), nil, refused(access.CodeMalformed, "duration 59s is shorter than 1m, the shortest grant")},
		"policy's maximum":  {evidence(w.ask(lasting(8 * time.Hour))), nil, needsBob},
		"over policy's":     {evidence(w.ask(lasting(8*time.Hour + time.Second))), nil, verdict{effect: access.EffectDeny, why: "8h1s is longer than the 8h that policy allows"}},
		"over policy's, shortened": {evidence(w.ask(lasting(9*time.Hour)), w.decide(w.ask(lasting(9*time.Hour)), "bob", atMost(time.Hour))), nil,
			verdict{effect: access.EffectDeny, why: "9h is longer than the 8h that policy allows", voices: "bob"}},
		"the kind's maximum": {evidence(w.ask(on("free"), lasting(day))), nil, verdict{effect: access.EffectAllow, why: `allowed by rule "free"`, duration: day}},
		"over the kind's":    {evidence(w.ask(on("free"), lasting(day+time.Second))), nil, verdict{effect: access.EffectDeny, why: "1d1s is longer than the 1d that is possible for kind ssh"}},

		// The request.
		"by a stranger, asked": {evidence(w.askAs("ephemeral")), nil, refused(access.CodeUnverified,
			"request is signed by "+ssh.FingerprintSHA256(signer("ephemeral").PublicKey())+", which is nobody's key in the directory")},
		"mallory as alice":      {evidence(w.askAs("mallory")), nil, refused(access.CodeUnverified, "request names alice as its signer, but is signed by a key of mallory")},
		"unknown resource":      {evidence(w.ask(on("nowhere"))), nil, refused(access.CodeNotFound, "there is no resource ssh/nowhere in the catalog")},
		"resource that is gone": {evidence(web, w.decide(web, "bob")), w.change(func(w *world) { w.roles = w.roles[1:] }), refused(access.CodeNotFound, "there is no resource ssh/web in the catalog")},
		"unknown login":         {evidence(w.ask(func(r *access.Request) { r.Login = "admin" })), nil, refused(access.CodeNotFound, `ssh/web has no login "admin"; there is deploy, root`)},
		"no login":              {evidence(w.ask(func(r *access.Request) { r.Login = "" })), nil, refused(access.CodeMalformed, `request names no login; there is deploy, root`)},
		"unknown action":        {evidence(w.ask(func(r *access.Request) { r.Actions = []string{"fly"} })), nil, refused(access.CodeNotFound, `ssh/web has no action "fly"`)},
		"no key":                {evidence(w.ask(func(r *access.Request) { r.PublicKey = "" })), nil, refused(access.CodeMalformed, `request has no public_key to certify`)},
		"one's own key":         {evidence(w.ask(func(r *access.Request) { r.PublicKey = publicKey("alice2") })), nil, needsBob},
		"somebody else's key":   {evidence(w.ask(func(r *access.Request) { r.PublicKey = publicKey("bob2") })), nil, refused(access.CodeForbidden, `public_key belongs to bob`)},

		// Kind vault.
		"a secret":                  {evidence(w.ask(vault())), nil, verdict{effect: access.EffectAllow, why: `allowed by rule "free"`, duration: time.Hour}},
		"two":                       {evidence(w.ask(vault("dump", "read"))), nil, verdict{effect: access.EffectAllow, why: `allowed by rule "free"`, duration: time.Hour}},
		"a secret for a day":        {evidence(w.ask(vault(), lasting(day))), nil, verdict{effect: access.EffectAllow, why: `allowed by rule "free"`, duration: day}},
		"a secret for longer":       {evidence(w.ask(vault(), lasting(day+time.Second))), nil, verdict{effect: access.EffectDeny, why: "1d1s is longer than the 1d that is possible for kind vault"}},
		"no action":                 {evidence(w.ask(vault(), func(r *access.Request) { r.Actions = nil })), nil, refused(access.CodeMalformed, "request names no action; there is dump, read")},
		"action not there":          {evidence(w.ask(vault("drop"))), nil, refused(access.CodeNotFound, `vault/db has no action "drop"; there is dump, read`)},
		"no recipient":              {evidence(w.ask(vault(), func(r *access.Request) { r.Recipient = "" })), nil, refused(access.CodeMalformed, "request has no recipient to encrypt the secret to")},
		"recipient nobody can have": {evidence(w.ask(vault(), func(r *access.Request) { r.Recipient = "age1" + strings.Repeat("q", 58) })), nil, refused(access.CodeMalformed, "recipient is not an age X25519 recipient")},
		"a secret with a login":     {evidence(w.ask(vault(), func(r *access.Request) { r.Login = "deploy" })), nil, refused(access.CodeMalformed, "request names a login, which is only for resources of kind ssh")},
		"a secret with a command":   {evidence(w.ask(vault(), func(r *access.Request) { r.Command = "ls" })), nil, refused(access.CodeMalformed, "request names a command, which is only for resources of kind ssh")},
		"a secret with an SSH key":  {evidence(w.ask(vault(), func(r *access.Request) { r.PublicKey = publicKey("ephemeral") })), nil, refused(access.CodeMalformed, "request names a public_key, which is only for resources of kind ssh")},

		"a decision as request": {evidence(w.decide(web, "bob")), nil, refused(access.CodeUnverified, `signature is for "decision@hallpass", not for "request@hallpass"`)},
		"a request as decision": {evidence(web, web), nil, refused(access.CodeUnverified, `signature is for "request@hallpass", not for "decision@hallpass"`)},
	} {
		t.Run(name, func(t *testing.T) {
			book := w.book()
			if c.w != nil {
				c.w.t = t
				book = c.w.book()
			}
			got, err := book.Judge(c.ev, asked.Add(2*time.Minute), Known{})
			c.want.check(t, got, err)
			if err == nil && got.Ruling.Digests != book.Digests() {
				t.Errorf("digests %+v", got.Ruling.Digests)
			}
		})
	}
}

// TestTimes has a row on each side of each bound on ages.
func TestTimes(t *testing.T) {
	w := newWorld(t)
	web, free := w.ask(), w.ask(on("free"))
	soon, far := w.ask(on("free"), starting(3*day)), w.ask(starting(3*day))
	ok := verdict{effect: access.EffectAllow, why: `allowed by rule "free"`, duration: time.Hour}
	bob := verdict{effect: access.EffectAllow, why: `approved by bob`, duration: time.Hour, voices: "bob"}
	stale := verdict{code: access.CodeStale, why: "the evidence is older than 1d"}
	for name, c := range map[string]struct {
		ev    access.Evidence
		now   time.Duration // after it was asked
		known Known
		want  verdict
	}{
		"at once":                   {evidence(free), 0, Known{}, ok},
		"from the future, a little": {evidence(free), -skew, Known{}, ok},
		"from the future, too much": {evidence(free), -skew - time.Second, Known{}, verdict{code: access.CodeStale, why: "request is dated more than 5m in the future"}},
		"a day old":                 {evidence(free), day, Known{}, ok},
		"over a day old":            {evidence(free), day + time.Second, Known{}, stale},

		"approved at the end of the day":   {evidence(web, w.decide(web, "bob", at(day))), day, Known{}, verdict{effect: access.EffectDeny, why: `frozen on Saturdays (rule "freeze")`, voices: "bob"}},
		"a day after the approval":         {evidence(w.ask(on("two")), w.decide(w.ask(on("two")), "bob", at(2*time.Hour)), w.decide(w.ask(on("two")), "carol", at(time.Hour))), day + 2*time.Hour, Known{}, verdict{effect: access.EffectAllow, why: "approved by bob, carol", duration: time.Hour, voices: "bob carol"}},
		"over a day after the approval":    {evidence(web, w.decide(web, "bob", at(time.Hour))), day + time.Hour + time.Second, Known{}, stale},
		"a stranger doesn't make it young": {evidence(web, w.decide(web, "ephemeral", as("zoe"), at(day))), day + time.Second, Known{}, stale},
		"nor does who has no say":          {evidence(web, w.decide(web, "dave", at(day))), day + time.Second, Known{}, stale},
		"a day after the start":            {evidence(soon), 4 * day, Known{}, ok},
		"over a day after the start":       {evidence(soon), 4*day + time.Second, Known{}, stale},
		"approved, then waited":            {evidence(far, w.decide(far, "bob")), 3 * day, Known{}, bob},
		"not approved, but starts later":   {evidence(far), 2 * day, Known{}, verdict{effect: access.EffectAsk, why: "needs 1 approval from sre"}},

		"decided before it was asked, a little": {evidence(web, w.decide(web, "bob", at(-skew))), 0, Known{}, bob},
		"decided before it was asked":           {evidence(web, w.decide(web, "bob", at(-skew-time.Second))), 0, Known{}, verdict{code: access.CodeStale, why: "decision is older than the request it is about"}},
		"decided in the future, a little":       {evidence(web, w.decide(web, "bob", at(time.Minute+skew))), time.Minute, Known{}, bob},
		"decided in the future":                 {evidence(web, w.decide(web, "bob", at(time.Minute+skew+time.Second))), time.Minute, Known{}, verdict{code: access.CodeStale, why: "decision is dated more than 5m in the future"}},

		"starts when asked":        {evidence(w.ask(on("free"), starting(0))), 0, Known{}, ok},
		"starts before it's asked": {evidence(w.ask(on("free"), starting(-time.Second))), 0, Known{}, verdict{code: access.CodeMalformed, why: "start lies before the request itself"}},
		"starts in 90 days":        {evidence(w.ask(on("free"), starting(90*day))), 0, Known{}, ok},
		"starts later":             {evidence(w.ask(on("free"), starting(90*day+time.Second))), 0, Known{}, verdict{code: access.CodeMalformed, why: "start is more than 90d ahead"}},

		"a lower minimum":       {evidence(w.ask(on("free"), lasting(2*time.Second))), 0, Known{MinGrant: 2 * time.Second}, verdict{effect: access.EffectAllow, why: `allowed by rule "free"`, duration: 2 * time.Second}},
		"below a lower minimum": {evidence(w.ask(on("free"), lasting(time.Second))), 0, Known{MinGrant: 2 * time.Second}, verdict{code: access.CodeMalformed, why: "duration 1s is shorter than 2s, the shortest grant"}},
		"a higher minimum":      {evidence(free), 0, Known{MinGrant: time.Hour + time.Second}, verdict{code: access.CodeMalformed, why: "duration 1h is shorter than 1h1s, the shortest grant"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := w.book().Judge(c.ev, asked.Add(c.now), c.known)
			c.want.check(t, got, err)
		})
	}
}

func TestManyDecisions(t *testing.T) {
	w := newWorld(t)
	many := w.ask(on("many"))
	var all []access.Statement
	for i := range crowd {
		all = append(all, w.decide(many, fmt.Sprintf("u%02d", i)))
	}
	now := asked.Add(2 * time.Minute)
	got, err := w.book().Judge(evidence(many, all[:9]...), now, Known{})
	verdict{effect: access.EffectAsk, why: "needs 1 approval from crowd", voices: "u00 u01 u02 u03 u04 u05 u06 u07 u08"}.check(t, got, err)
	if got, err = w.book().Judge(evidence(many, all[:MaxDecisions]...), now, Known{}); err != nil || got.Effect != access.EffectAllow || len(got.Voices) != MaxDecisions {
		t.Errorf("%d decisions: %s, %v", MaxDecisions, got.Why, err)
	}
	got, err = w.book().Judge(evidence(many, all...), now, Known{})
	verdict{code: access.CodeMalformed, why: "evidence has 65 decisions; at most 64 are heard"}.check(t, got, err)
	_, _, err = w.book().Hear(evidence(many, all[:MaxDecisions]...), all[MaxDecisions], now, Known{})
	if access.CodeOf(err) != access.CodeMalformed {
		t.Errorf("a 65th is heard: %v", err)
	}
	if _, _, err = w.book().Hear(evidence(many, all[:MaxDecisions-1]...), all[MaxDecisions-1], now, Known{}); err != nil {
		t.Errorf("the 64th isn't heard: %v", err)
	}
}

func TestHear(t *testing.T) {
	w := newWorld(t)
	web, two, majority := w.ask(), w.ask(on("two")), w.ask(on("majority"))
	against := evidence(majority, w.decide(majority, "bob", deny("not today")))
	bobHas := evidence(two, w.decide(two, "bob"))
	fingerprint := ssh.FingerprintSHA256(signer("ephemeral").PublicKey())
	saturday := day - 2*time.Minute
	for name, c := range map[string]struct {
		ev       access.Evidence
		decision access.Statement
		after    time.Duration
		want     verdict
	}{
		"approves":             {evidence(web), w.decide(web, "bob"), 0, verdict{effect: access.EffectAllow, why: "approved by bob", duration: time.Hour, voices: "bob"}},
		"denies":               {evidence(web), w.decide(web, "bob", deny("no")), 0, verdict{effect: access.EffectDeny, why: "denied by bob: no", voices: "bob"}},
		"the first of two":     {evidence(two), w.decide(two, "bob"), 0, verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", voices: "bob"}},
		"the second of two":    {bobHas, w.decide(two, "carol"), 0, verdict{effect: access.EffectAllow, why: "approved by bob, carol", duration: time.Hour, voices: "bob carol"}},
		"one more than needed": {evidence(web, w.decide(web, "bob")), w.decide(web, "carol", atMost(time.Minute)), 0, verdict{effect: access.EffectAllow, why: "approved by bob, carol", duration: time.Minute, voices: "bob carol"}},
		"denies what is approved": {evidence(web, w.decide(web, "bob")), w.decide(web, "carol", deny("")), 0,
			verdict{effect: access.EffectDeny, why: "denied by carol", voices: "bob carol"}},

		"the first denial of two": {evidence(majority), against.Decisions[0], 0,
			verdict{effect: access.EffectAsk, why: `needs 1 approval from dba and 1 from sre; has 1 of the 2 denials that end it (rule "majority")`, voices: "bob"}},
		"the second denial of two": {against, w.decide(majority, "dave", deny("nor tomorrow")), 0,
			verdict{effect: access.EffectDeny, why: "denied by bob, dave: nor tomorrow", voices: "bob dave"}},
		"the same denial twice": {against, against.Decisions[0], 0, verdict{code: access.CodeDuplicate, why: "bob has decided on this request already"}},
		"approves after one denial": {against, w.decide(majority, "dave"), 0,
			verdict{effect: access.EffectAsk, why: `needs 1 approval from sre; has 1 of the 2 denials that end it (rule "majority")`, voices: "bob dave"}},
		"outvotes one denial": {evidence(majority, against.Decisions[0], w.decide(majority, "dave")), w.decide(majority, "carol"), 0,
			verdict{effect: access.EffectAllow, why: "approved by dave, carol", duration: time.Hour, voices: "bob dave carol"}},
		"changes his mind": {against, w.decide(majority, "bob"), 0, verdict{code: access.CodeDuplicate, why: "bob has decided on this request already"}},

		"again":               {bobHas, bobHas.Decisions[0], 0, verdict{code: access.CodeDuplicate, why: "bob has decided on this request already"}},
		"with another key":    {bobHas, w.decide(two, "bob2", as("bob")), 0, verdict{code: access.CodeDuplicate, why: "bob has decided on this request already"}},
		"own":                 {evidence(web), w.decide(web, "alice"), 0, verdict{code: access.CodeForbidden, why: "nobody decides on a request of his own"}},
		"own, with other key": {evidence(web), w.decide(web, "alice2", as("alice")), 0, verdict{code: access.CodeForbidden, why: "nobody decides on a request of his own"}},
		"own, as bob":         {evidence(web), w.decide(web, "alice", as("bob")), 0, verdict{code: access.CodeUnverified, why: "decision names bob as its signer, but is signed by a key of alice"}},
		"by a stranger":       {evidence(web), w.decide(web, "ephemeral", as("bob")), 0, verdict{code: access.CodeUnverified, why: "decision is signed by " + fingerprint + ", which is nobody's key in the directory"}},
		"by the wrong group":  {evidence(web), w.decide(web, "dave"), 0, verdict{code: access.CodeForbidden, why: "the signer is in none of the groups that decide on this request: sre"}},
		"denied by the wrong group": {evidence(web), w.decide(web, "erin", deny("")), 0,
			verdict{code: access.CodeForbidden, why: "the signer is in none of the groups that decide on this request: sre"}},
		"nobody asked":       {evidence(w.ask(on("free"))), w.decide(w.ask(on("free")), "bob"), 0, verdict{code: access.CodeForbidden, why: "the request needs nobody's approval"}},
		"other request":      {evidence(web), w.decide(two, "bob"), 0, verdict{code: access.CodeMismatch, why: "decision is about another request, or this one was changed since"}},
		"widens":             {evidence(web), w.decide(web, "bob", atMost(2*time.Hour)), 0, verdict{code: access.CodeForbidden, why: "approval is for 2h, longer than the 1h asked for"}},
		"too old":            {evidence(web), w.decide(web, "bob", at(-time.Hour)), 0, verdict{code: access.CodeStale, why: "decision is older than the request it is about"}},
		"too new":            {evidence(web), w.decide(web, "bob", at(time.Hour)), 0, verdict{code: access.CodeStale, why: "decision is dated more than 5m in the future"}},
		"a stale request":    {evidence(web), w.decide(web, "bob", at(2*day)), 2 * day, verdict{code: access.CodeStale, why: "the evidence is older than 1d"}},
		"a denied request":   {evidence(web, w.decide(web, "carol", deny("no"))), w.decide(web, "bob"), 0, verdict{code: access.CodeDenied, why: "the request is denied already: denied by carol: no"}},
		"what policy denies": {evidence(web), w.decide(web, "bob"), saturday, verdict{code: access.CodeDenied, why: `the request is denied already: frozen on Saturdays (rule "freeze")`}},
		"denies what policy denies": {evidence(web), w.decide(web, "bob", deny("")), saturday,
			verdict{effect: access.EffectDeny, why: `frozen on Saturdays (rule "freeze")`, voices: "bob"}},
		"not signed": {evidence(web), access.Statement{Payload: w.decide(web, "bob").Payload}, 0, verdict{code: access.CodeUnverified, why: "decision is not signed"}},
		"signature of another": {evidence(two), access.Statement{Payload: w.decide(two, "bob").Payload, Signature: w.decide(web, "bob").Signature}, 0,
			verdict{code: access.CodeUnverified, why: "signature of decision by " + ssh.FingerprintSHA256(signer("bob").PublicKey()) + " is not valid: signature did not verify"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := access.Evidence{Request: c.ev.Request, Decisions: slices.Clone(c.ev.Decisions)}
			now := asked.Add(2*time.Minute + c.after)
			got, after, err := w.book().Hear(c.ev, c.decision, now, Known{})
			c.want.check(t, got, err)
			if diff := cmp.Diff(before, c.ev); diff != "" {
				t.Errorf("the evidence given was changed: %s", diff)
			}
			if err != nil {
				if diff := cmp.Diff(access.Evidence{}, after); diff != "" {
					t.Errorf("an error with evidence: %s", diff)
				}
				return
			}
			want := evidence(before.Request, append(before.Decisions, c.decision)...)
			if diff := cmp.Diff(want, after); diff != "" {
				t.Error(diff)
			}
			again, err := w.book().Judge(after, now, Known{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("Judge says otherwise: %s", diff)
			}
		})
	}
}

// Evidence that is handed out isn't written to by the next hearing.
// Those whom a step of the escalation asks decide from then on: by their own
// clock, by the judge's, and by when the request was first heard of.
func TestEscalation(t *testing.T) {
	w := newWorld(t)
	slow := w.ask(on("slow"))
	const ten = 10 * time.Minute
	bob := w.decide(slow, "bob")
	early := "%s by dave doesn't count: the signer's groups are not asked before 2026-11-20T10:10:00Z"
	for name, c := range map[string]struct {
		decisions []access.Statement
		now       time.Duration
		heard     time.Duration // after the request's own time; 0: nobody knows
		want      verdict
	}{
		"nobody yet": {nil, ten - time.Second, 0, verdict{effect: access.EffectAsk, why: "needs 2 approvals from sre"}},
		"asked":      {nil, ten, 0, verdict{effect: access.EffectAsk, why: "needs 2 approvals from dba or sre"}},
		"told":       {nil, 2 * ten, 0, verdict{effect: access.EffectAsk, why: "needs 2 approvals from dba or sre"}},
		"a second early": {[]access.Statement{bob, w.decide(slow, "dave", at(ten-time.Second))}, 2 * ten, 0,
			verdict{effect: access.EffectAsk, why: "needs 1 approval from dba or sre", voices: "bob", dropped: []string{fmt.Sprintf(early, "approve")}}},
		"in time": {[]access.Statement{bob, w.decide(slow, "dave", at(ten))}, ten, 0,
			verdict{effect: access.EffectAllow, why: "approved by bob, dave", voices: "bob dave", duration: time.Hour}},
		"by a clock that is ahead": {[]access.Statement{bob, w.decide(slow, "dave", at(ten))}, ten - time.Second, 0,
			verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", voices: "bob", dropped: []string{fmt.Sprintf(early, "approve")}}},
		"denied early": {[]access.Statement{w.decide(slow, "dave", deny("no"), at(time.Minute))}, 2 * ten, 0,
			verdict{effect: access.EffectAsk, why: "needs 2 approvals from dba or sre", dropped: []string{fmt.Sprintf(early, "deny")}}},
		"denied in time": {[]access.Statement{w.decide(slow, "dave", deny("no"), at(ten))}, 2 * ten, 0,
			verdict{effect: access.EffectDeny, why: "denied by dave: no", voices: "dave"}},
		"those who are only told": {[]access.Statement{w.decide(slow, "erin", at(2*ten))}, 2 * ten, 0,
			verdict{effect: access.EffectAsk, why: "needs 2 approvals from dba or sre", dropped: []string{"approve by erin doesn't count: the signer is in none of the groups that decide on it"}}},
		"dated back": {[]access.Statement{bob, w.decide(slow, "dave", at(ten))}, ten, time.Second,
			verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", voices: "bob",
				dropped: []string{"approve by dave doesn't count: the signer's groups are not asked before 2026-11-20T10:10:01Z"}}},
		"heard within the second": {[]access.Statement{bob, w.decide(slow, "dave", at(ten))}, ten, 999 * time.Millisecond,
			verdict{effect: access.EffectAllow, why: "approved by bob, dave", voices: "bob dave", duration: time.Hour}},
		"dated ahead": {[]access.Statement{bob, w.decide(slow, "dave", at(ten-time.Second))}, 2 * ten, -time.Minute,
			verdict{effect: access.EffectAsk, why: "needs 1 approval from dba or sre", voices: "bob", dropped: []string{fmt.Sprintf(early, "approve")}}},
	} {
		t.Run(name, func(t *testing.T) {
			var known Known
			if c.heard != 0 {
				known.Asked = asked.Add(c.heard)
			}
			got, err := w.book().Judge(evidence(slow, c.decisions...), asked.Add(c.now), known)
			c.want.check(t, got, err)
		})
	}
	_, _, err := w.book().Hear(evidence(slow), w.decide(slow, "dave"), asked.Add(time.Minute), Known{})
	if want := fmt.Sprintf(early, "approve") + ", when it has waited for 10m"; err == nil || err.Error() != want {
		t.Errorf("heard too early: %v, want %s", err, want)
	}
	// Whoever may approve some day may revoke at once.
	stop := sign(t, "dave", access.Stop{
		Header:  access.Header{Type: access.TypeRevoke, ID: otherID, Signer: "dave", Time: asked},
		Request: someID, RequestHash: slow.Hash(),
	})
	if _, _, err := w.book().CheckStop(slow, stop, access.TypeRevoke, asked.Add(time.Minute)); err != nil {
		t.Errorf("revoked by one who would be asked later: %v", err)
	}
}

func TestHearDoesNotShare(t *testing.T) {
	w := newWorld(t)
	two := w.ask(on("two"))
	ev := access.Evidence{Request: two, Decisions: make([]access.Statement, 0, 8)}
	now := asked.Add(2 * time.Minute)
	_, a, err := w.book().Hear(ev, w.decide(two, "bob"), now, Known{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = w.book().Hear(ev, w.decide(two, "carol"), now, Known{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(a.Decisions[0].Payload, `"signer":"bob"`) {
		t.Error("the first hearing's evidence was overwritten")
	}
}

func TestCheckStop(t *testing.T) {
	w := newWorld(t)
	web := w.ask()
	type option = func(*access.Stop)
	stop := func(key string, typ access.Type, change ...option) access.Statement {
		s := access.Stop{Header: access.Header{Type: typ, ID: otherID, Signer: key, Time: asked.Add(time.Hour)}, Request: someID, RequestHash: web.Hash()}
		for _, f := range change {
			f(&s)
		}
		return sign(t, key, s)
	}
	called := func(name string) option { return func(s *access.Stop) { s.Signer = name } }
	time_ := func(d time.Duration) option { return func(s *access.Stop) { s.Time = asked.Add(d) } }
	const now = time.Hour
	release, cancel, revoke := access.TypeRelease, access.TypeCancel, access.TypeRevoke
	free := w.ask(on("free"))
	ofFree := func(s *access.Stop) { s.RequestHash = free.Hash() }
	for name, c := range map[string]struct {
		w       *world
		request access.Statement
		stop    access.Statement
		typ     access.Type
		code    access.Code // "" if it is good
		why     string
	}{
		"release":                  {w, web, stop("alice", release), release, "", ""},
		"release with other key":   {w, web, stop("alice2", release, called("alice")), release, "", ""},
		"cancel":                   {w, web, stop("alice", cancel), cancel, "", ""},
		"revoke by an approver":    {w, web, stop("bob", revoke), revoke, "", ""},
		"revoke by a revoker":      {w, web, stop("erin", revoke), revoke, "", ""},
		"revoke by anybody":        {w, web, stop("mallory", revoke), revoke, access.CodeForbidden, "mallory is in none of the groups that may revoke this"},
		"revoke by another rule's": {w, web, stop("dave", revoke), revoke, access.CodeForbidden, "dave is in none of the groups that may revoke this"},
		"revoke one's own":         {w, web, stop("alice", revoke), revoke, access.CodeForbidden, "nobody revokes a grant of his own"},
		"release another's":        {w, web, stop("bob", release), release, access.CodeForbidden, "only alice can release this request"},
		"cancel another's":         {w, web, stop("erin", cancel), cancel, access.CodeForbidden, "only alice can cancel this request"},
		"release in her name":      {w, web, stop("mallory", release, called("alice")), release, access.CodeUnverified, "release names alice as its signer, but is signed by a key of mallory"},
		"release as cancel":        {w, web, stop("alice", release), cancel, access.CodeUnverified, `signature is for "release@hallpass", not for "cancel@hallpass"`},
		"a decision as stop":       {w, web, w.decide(web, "bob"), access.TypeDecision, access.CodeMalformed, `a "decision" stops nothing; it has to be release, revoke or cancel`},
		"another request":          {w, web, stop("alice", release, func(s *access.Stop) { s.Request = otherID }), release, access.CodeMismatch, "release is about another request, or this one was changed since"},
		"other bytes":              {w, w.ask(lasting(time.Minute)), stop("alice", release), release, access.CodeMismatch, "release is about another request, or this one was changed since"},
		"forged request":           {w, access.Statement{Payload: web.Payload, Signature: free.Signature}, stop("alice", release), release, access.CodeUnverified, "signature of request by " + ssh.FingerprintSHA256(signer("alice").PublicKey()) + " is not valid: signature did not verify"},
		"a little before":          {w, web, stop("alice", release, time_(-skew)), release, "", ""},
		"before":                   {w, web, stop("alice", release, time_(-skew-time.Second)), release, access.CodeStale, "release is older than the request it is about"},
		"a little ahead":           {w, web, stop("alice", release, time_(now+skew)), release, "", ""},
		"ahead":                    {w, web, stop("alice", release, time_(now+skew+time.Second)), release, access.CodeStale, "release is dated more than 5m in the future"},

		// Whatever has happened since, a grant can be taken back.
		"requester has left":        {w.change(func(w *world) { delete(w.groups, "alice") }), web, stop("bob", revoke), revoke, "", ""},
		"requester has no say then": {w.change(func(w *world) { delete(w.groups, "alice") }), web, stop("alice", release), release, access.CodeUnverified, "release is signed by " + ssh.FingerprintSHA256(signer("alice").PublicKey()) + ", which is nobody's key in the directory"},
		"resource is gone":          {w.change(func(w *world) { w.roles = w.roles[1:] }), web, stop("erin", revoke), revoke, "", ""},
		"resource is gone, others":  {w.change(func(w *world) { w.roles = w.roles[1:] }), web, stop("mallory", revoke), revoke, access.CodeForbidden, "mallory is in none of the groups that may revoke this"},
		"no rule any more":          {w.change(func(w *world) { w.policy = strings.ReplaceAll(w.policy, `"web"`, `"other"`) }), web, stop("erin", revoke), revoke, "", ""},
		"policy denies now":         {w.change(func(w *world) { w.policy += "  - {name: stop, when: true, deny: stop}\n" }), web, stop("bob", revoke), revoke, "", ""},
		"nobody named by policy":    {w, free, stop("bob", revoke, ofFree), revoke, "", ""},
		"but not just anybody":      {w, free, stop("mallory", revoke, ofFree), revoke, access.CodeForbidden, "mallory is in none of the groups that may revoke this"},
		"revoker has left":          {w.change(func(w *world) { delete(w.groups, "erin") }), web, stop("erin", revoke), revoke, access.CodeUnverified, "revoke is signed by " + ssh.FingerprintSHA256(signer("erin").PublicKey()) + ", which is nobody's key in the directory"},
	} {
		t.Run(name, func(t *testing.T) {
			got, user, err := c.w.book().CheckStop(c.request, c.stop, c.typ, asked.Add(now))
			if c.code != "" {
				if access.CodeOf(err) != c.code || err.Error() != c.why {
					t.Errorf("got  %q: %v\nwant %q: %s", access.CodeOf(err), err, c.code, c.why)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Type != c.typ || user.Name != got.Signer || got.Request != someID {
				t.Errorf("got %+v by %+v", got, user)
			}
		})
	}
}

// Long after it was issued, evidence is stale and its grant can still be taken
// back.
func TestStopNeverStale(t *testing.T) {
	w := newWorld(t)
	web := w.ask()
	late := asked.Add(1000 * day)
	st := sign(t, "bob", access.Stop{Header: access.Header{Type: access.TypeRevoke, ID: otherID, Signer: "bob", Time: late}, Request: someID, RequestHash: web.Hash()})
	if _, _, err := w.book().CheckStop(web, st, access.TypeRevoke, late); err != nil {
		t.Error(err)
	}
}

// More evidence never widens: whatever is added to it, an allowed request is
// granted for as long or shorter, or not at all; and in whatever order the
// decisions come, they say the same.
func TestMoreNeverWidens(t *testing.T) {
	w := newWorld(t)
	for _, role := range []string{"two", "mixed", "three"} {
		request := w.ask(on(role))
		pool := []access.Statement{
			w.decide(request, "bob", atMost(30*time.Minute)), w.decide(request, "carol"), w.decide(request, "dave", atMost(20*time.Minute)),
			w.decide(request, "u00"), w.decide(request, "u01", atMost(10*time.Minute)), w.decide(request, "u02"),
			w.decide(request, "mallory"), w.decide(request, "erin", deny("no")),
		}
		now := asked.Add(2 * time.Minute)
		judge := func(set uint, backwards bool) access.Standing {
			var d []access.Statement
			for i := range pool {
				if set&(1<<i) != 0 {
					d = append(d, pool[i])
				}
			}
			if backwards {
				slices.Reverse(d)
			}
			s, err := w.book().Judge(evidence(request, d...), now, Known{})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		var all []access.Standing
		for set := range uint(1) << len(pool) {
			s, b := judge(set, false), judge(set, true)
			if b.Effect != s.Effect || b.Duration != s.Duration || !cmp.Equal(b.Missing, s.Missing) {
				t.Fatalf("%s, set %b: backwards %s %s, not %s %s", role, set, b.Effect, b.Duration, s.Effect, s.Duration)
			}
			all = append(all, s)
		}
		for set, s := range all {
			for i := range pool {
				more := all[set|1<<i]
				if s.Effect == access.EffectAllow && (more.Effect == access.EffectAsk || more.Duration > s.Duration) {
					t.Fatalf("%s, set %b and %d: %s for %s became %s for %s", role, set, i, s.Effect, s.Duration, more.Effect, more.Duration)
				}
			}
		}
	}
}

// FuzzJudge changes good evidence: bytes, places, repetition. Whatever it
// does, evidence that isn't refused consists of statements as they were
// signed, and what is allowed has the approvals it takes.
func FuzzJudge(f *testing.F) {
	w := newWorld(f)
	two := w.ask(on("two"))
	good := evidence(two, w.decide(two, "bob"), w.decide(two, "carol"))
	book := w.book()
	signed := map[string]bool{two.Payload: true, good.Decisions[0].Payload: true, good.Decisions[1].Payload: true}

	for op := range byte(8) {
		f.Add(op, byte(0), uint16(10), []byte("x"))
		f.Add(op, byte(3), uint16(100), []byte{0x80})
	}
	f.Fuzz(func(t *testing.T, op, which byte, pos uint16, with []byte) {
		ev := access.Evidence{Request: good.Request, Decisions: slices.Clone(good.Decisions)}
		texts := []*string{&ev.Request.Payload, &ev.Request.Signature, &ev.Decisions[0].Payload, &ev.Decisions[0].Signature, &ev.Decisions[1].Payload, &ev.Decisions[1].Signature}
		text := texts[int(which)%len(texts)]
		i := int(pos) % (len(*text) + 1)
		switch op % 8 {
		case 0: // insert
			*text = (*text)[:i] + string(with) + (*text)[i:]
		case 1: // overwrite
			b := []byte(*text)
			copy(b[i:], with)
			*text = string(b)
		case 2: // cut out
			*text = (*text)[:i] + (*text)[min(len(*text), i+len(with)):]
		case 3:
			*text = string(with)
		case 4: // exchange
			*text, *texts[i%len(texts)] = *texts[i%len(texts)], *text
		case 5: // repeat
			ev.Decisions = append(ev.Decisions, ev.Decisions[i%2])
		case 6: // leave out
			ev.Decisions = slices.Delete(ev.Decisions, i%2, i%2+1)
		case 7:
			slices.Reverse(ev.Decisions)
		}
		s, err := book.Judge(ev, asked.Add(2*time.Minute), Known{})
		if err != nil {
			if access.CodeOf(err) == "" || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("not a refusal in one line: %q", err)
			}
			return
		}
		for _, st := range append(ev.Decisions, ev.Request) {
			if !signed[st.Payload] {
				t.Errorf("counts, but was never signed: %q", st.Payload)
			}
		}
		if allowed := s.Effect == access.EffectAllow; allowed && len(s.Voices) != 2 || s.Duration > 3600 {
			t.Errorf("%s for %s by %d", s.Effect, s.Duration, len(s.Voices))
		}
		if len(s.Voices) == 2 && s.Voices[0].Signer == s.Voices[1].Signer {
			t.Error("one person counts twice")
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	w := newWorld(b)
	for _, c := range []struct {
		role string
		n    int
	}{{"web", 1}, {"three", 3}, {"many", 10}} {
		request := w.ask(on(c.role))
		ev := evidence(request)
		for i := range c.n {
			key := fmt.Sprintf("u%02d", i)
			if c.role == "web" {
				key = "bob"
			}
			ev.Decisions = append(ev.Decisions, w.decide(request, key))
		}
		book := w.book()
		b.Run(fmt.Sprintf("approvals=%d", c.n), func(b *testing.B) {
			b.ReportAllocs()
			measure.Loop(b, func() {
				if s, err := book.Judge(ev, asked.Add(2*time.Minute), Known{}); err != nil || s.Effect != access.EffectAllow {
					b.Fatal(s.Why, err)
				}
			})
		})
	}
}

func TestNewRulebook(t *testing.T) {
	w := newWorld(t)
	book := w.book()
	for i, c := range []struct {
		want []byte
		got  []byte
	}{{[]byte(w.policy), book.Policy.Data()}, {w.directory(), book.Directory.Data()}, {w.catalog(), book.Catalog.Data()}} {
		if !bytes.Equal(c.want, c.got) {
			t.Errorf("file %d isn't kept as it was", i)
		}
	}
	d := book.Digests()
	if d.Policy == d.Directory || d.Policy != book.Policy.Digest() || d.Directory != book.Directory.Digest() || d.Catalog != book.Catalog.Digest() {
		t.Errorf("%+v", d)
	}
	for i, want := range []string{"policy.yaml:1:1: ", "directory.yaml:1:", "catalog.yaml:1:"} {
		files := [3][]byte{[]byte(w.policy), w.directory(), w.catalog()}
		files[i] = []byte("- x\n")
		if _, err := NewRulebook(files[0], files[1], files[2]); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s…", err, want)
		}
	}
}

// An approval of what has become automatic since is refused, and tells whoever
// waits for approvals that he needn't. Nothing else that is refused does.
func TestUnneeded(t *testing.T) {
	w := newWorld(t)
	free, web := w.ask(on("free")), w.ask()
	for name, c := range map[string]struct {
		ev       access.Evidence
		decision access.Statement
		want     bool
	}{
		"an approval":             {evidence(free), w.decide(free, "bob"), true},
		"a denial":                {evidence(free), w.decide(free, "bob", deny("no")), false},
		"the requester's own":     {evidence(free), w.decide(free, "alice"), false},
		"a stranger's":            {evidence(free), w.decide(free, "ephemeral", as("bob")), false},
		"unsigned":                {evidence(free), access.Statement{Payload: w.decide(free, "bob").Payload}, false},
		"of another request":      {evidence(free), w.decide(web, "bob"), false},
		"where one is needed":     {evidence(web), w.decide(web, "dave"), false},
		"where enough were given": {evidence(web, w.decide(web, "bob")), w.decide(web, "dave"), false},
	} {
		standing, ok := w.book().Unneeded(c.ev, c.decision, asked.Add(2*time.Minute), Known{})
		if ok != c.want || ok != (standing.Effect == access.EffectAllow) {
			t.Errorf("%s: %t with %q, want %t", name, ok, standing.Effect, c.want)
		}
	}
}

// Whether a rule held that asks other systems, or how long a grant is in all,
// is unknown when somebody revokes: whom such a rule names may, beside all who
// might without it.
func TestRevokeWithoutKnowing(t *testing.T) {
	w := newWorld(t)
	extends := func(r *access.Request) { r.Extends = otherID }
	for _, c := range []struct {
		name, rule string
		change     requestOption
		key        string
		may        bool
	}{
		{"no such rule", ``, nil, "dave", false},
		{"an answer", `when: 'context.ticket.state == "approved"', approvals: [{count: 1, from: [dba]}]`, nil, "dave", true},
		{"an answer, revoker", `when: 'context.ticket.state == "approved"', approvals: none, revoke: [dba]`, nil, "dave", true},
		{"one that may be absent", `when: 'has(context.ticket) && context.ticket.ok == true', approvals: [{count: 1, from: [dba]}]`, nil, "dave", true},
		{"asked later", `when: 'has(context.ticket)', approvals: [{count: 1, from: [sre]}], escalate: [{after: 1m, ask: [dba]}]`, nil, "dave", true},
		{"reviewer", `when: 'has(context.ticket)', approvals: [{count: 1, from: [sre]}], emergency: {tell: [sre], review: {from: [dba], count: 1, within: 1h}}`, nil, "dave", true},
		{"an answer, for another resource", `when: 'resource.labels.role == "two" && has(context.ticket)', approvals: [{count: 1, from: [dba]}]`, nil, "dave", false},
		{"the requester", `when: 'has(context.ticket)', approvals: [{count: 1, from: [dev, dba]}]`, nil, "alice", false},
		{"somebody else", `when: 'has(context.ticket)', approvals: [{count: 1, from: [dba]}]`, nil, "mallory", false},
		{"whoever else could", `when: 'has(context.ticket)', approvals: [{count: 1, from: [dba]}]`, nil, "erin", true},
		{"how long it is in all", `when: 'request.total > duration("90m")', approvals: [{count: 1, from: [dba]}]`, extends, "dave", true},
		{"how long it is, where it extends nothing", `when: 'request.total > duration("90m")', approvals: [{count: 1, from: [dba]}]`, nil, "dave", false},
		{"what fails", `when: 'request.actions[3] == "x"', approvals: [{count: 1, from: [dba]}]`, nil, "dave", true},
	} {
		book := w.change(func(w *world) {
			if c.rule != "" {
				w.policy += "  - {name: unknown, " + c.rule + "}\n"
			}
		}).book()
		var change []requestOption
		if c.change != nil {
			change = append(change, c.change)
		}
		request := w.ask(change...)
		st := sign(t, c.key, access.Stop{
			Header:  access.Header{Type: access.TypeRevoke, ID: otherID, Signer: c.key, Time: asked.Add(time.Minute)},
			Request: someID, RequestHash: request.Hash(),
		})
		if _, _, err := book.CheckStop(request, st, access.TypeRevoke, asked.Add(time.Minute)); (err == nil) != c.may {
			t.Errorf("%s: %s revokes: %v, want %t", c.name, c.key, err, c.may)
		}
	}
}
