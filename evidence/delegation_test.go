package evidence

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
)

// withDelegates is a world in which dave (dba), erin (sec), mallory and frank
// (dev) are there to decide for others, and sec may lock.
func withDelegates(t testing.TB) *world {
	w := withLocks(t)
	w.groups["frank"] = []string{"dev"}
	return w
}

type delegationOption func(*access.Delegation)

// give is a delegation from the time of alice's request on, for an hour.
func give(from, to string, change ...delegationOption) access.Delegation {
	end := asked.Add(time.Hour)
	d := access.Delegation{
		Header: access.Header{Type: access.TypeDelegation, ID: statement.NewID(), Signer: from, Time: asked},
		Action: access.ActionDelegate, To: to, Until: &end,
	}
	for _, f := range change {
		f(&d)
	}
	return d
}

func groups(names ...string) delegationOption {
	return func(d *access.Delegation) { d.Groups = names }
}

// during is when a delegation begins and ends, from alice's request on.
func during(from, to time.Duration) delegationOption {
	return func(d *access.Delegation) {
		end := asked.Add(to)
		d.Time, d.Until = asked.Add(from), &end
	}
}

// takeBack revokes a delegation.
func takeBack(by string, d access.Delegation, at time.Duration) access.Delegation {
	return access.Delegation{
		Header: access.Header{Type: access.TypeDelegation, ID: statement.NewID(), Signer: by, Time: asked.Add(at)},
		Action: access.ActionRevoke, To: d.To, Delegation: d.ID,
	}
}

// given is what is delegated once these were recorded.
func given(t testing.TB, words ...access.Delegation) (all Delegations) {
	t.Helper()
	for _, d := range words {
		all = all.After(d, sign(t, d.Signer, d), d.Time)
	}
	return all
}

func instead(of string) decisionOption {
	return func(d *access.Decision) { d.For = of }
}

func fingerprintOf(key string) string {
	return strings.TrimPrefix(ssh.FingerprintSHA256(signer(key).PublicKey()), "SHA256:")
}

func TestJudgeThroughDelegations(t *testing.T) {
	w := withDelegates(t)
	first := give("bob", "mallory")
	past := func(err string) string {
		return "approve by mallory for bob (delegated) doesn't count: " + err
	}
	none := past("no delegation by bob to mallory is in force")
	for _, tt := range []struct {
		name  string
		role  string // default web: one of sre
		given Delegations
		words func(request access.Statement) []access.Statement // default: mallory for bob
		book  func(w *world)
		locks Locks
		now   time.Duration // default: two minutes
		want  verdict
	}{
		{name: "for who has delegated", given: given(t, first),
			want: verdict{effect: access.EffectAllow, why: "approved by mallory for bob (delegated)", duration: time.Hour, voices: "mallory"}},
		{name: "for who hasn't", want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", dropped: []string{none}}},
		{name: "delegated to another", given: given(t, give("bob", "frank")),
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", dropped: []string{none}}},
		{name: "delegated by another", given: given(t, give("carol", "mallory")),
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", dropped: []string{none}}},
		{name: "delegated and not said", given: given(t, first), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory")}
		}, want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
			dropped: []string{"approve by mallory doesn't count: the signer is in none of the groups that decide on it"}}},
		{name: "revoked by the giver", given: given(t, first, takeBack("bob", first, time.Minute)),
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", dropped: []string{none}}},
		{name: "passed on", given: given(t, give("bob", "frank"), give("frank", "mallory")), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("frank"))}
		}, want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
			dropped: []string{"approve by mallory for frank (delegated) doesn't count: frank has delegated none of the groups that decide on it"}}},
		{name: "passed on, said otherwise", given: given(t, give("bob", "frank"), give("frank", "mallory")),
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", dropped: []string{none}}},

		{name: "began when it was signed", given: given(t, give("bob", "mallory", during(time.Minute, time.Hour))),
			want: verdict{effect: access.EffectAllow, why: "approved by mallory for bob (delegated)", duration: time.Hour, voices: "mallory"}},
		{name: "began a second later", given: given(t, give("bob", "mallory", during(61*time.Second, time.Hour))),
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
				dropped: []string{past("it was not signed while the delegation by bob was in force, from 2026-11-20T10:01:01Z")}}},
		{name: "a second left", given: given(t, give("bob", "mallory", during(0, 121*time.Second))),
			want: verdict{effect: access.EffectAllow, why: "approved by mallory for bob (delegated)", duration: time.Hour, voices: "mallory"}},
		{name: "over when it is judged", given: given(t, give("bob", "mallory", during(0, 2*time.Minute))),
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
				dropped: []string{past("the delegation by bob ended at 2026-11-20T10:02:00Z")}}},
		{name: "in force twice, not between", given: given(t, give("bob", "mallory", during(0, 90*time.Second)), give("bob", "mallory", during(100*time.Second, time.Hour))),
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
				dropped: []string{past("it was not signed while the delegation by bob was in force, from 2026-11-20T10:01:40Z")}}},

		{name: "as one of sre", given: given(t, give("bob", "mallory", groups("sre"))),
			want: verdict{effect: access.EffectAllow, why: "approved by mallory for bob (delegated)", duration: time.Hour, voices: "mallory"}},
		{name: "as one of another group", given: given(t, give("bob", "mallory", groups("dba"))), book: func(w *world) { w.groups["bob"] = []string{"dba", "sre"} },
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
				dropped: []string{past("bob has delegated none of the groups that decide on it")}}},
		{name: "two that add up", role: "mixed", given: given(t, give("bob", "mallory", groups("dba")), give("bob", "mallory", groups("sre"))),
			book: func(w *world) { w.groups["bob"] = []string{"dba", "sre"} },
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from dba", voices: "mallory"}},
		{name: "the giver has left the group", given: given(t, first), book: func(w *world) { w.groups["bob"] = []string{"dev"} },
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
				dropped: []string{past("bob has delegated none of the groups that decide on it")}}},
		{name: "a group that he never had", given: given(t, give("bob", "mallory", groups("sec", "sre"))),
			want: verdict{effect: access.EffectAllow, why: "approved by mallory for bob (delegated)", duration: time.Hour, voices: "mallory"}},
		{name: "the giver has left", given: given(t, first), book: func(w *world) { delete(w.groups, "bob") },
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", dropped: []string{past("there is no bob in the directory")}}},
		{name: "the giver has another key", given: given(t, first), book: func(w *world) { w.keys["bob"] = []string{"bob3"} },
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
				dropped: []string{past("the delegation by bob doesn't hold any more: delegation is signed by SHA256:" + fingerprintOf("bob") + ", which is nobody's key in the directory")}}},
		{name: "the giver has to use a PIN now", given: given(t, first), book: func(w *world) { w.keys["bob"], w.pin["bob"] = []string{"sk-bob"}, true },
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
				dropped: []string{past("the delegation by bob doesn't hold any more: delegation is signed by SHA256:" + fingerprintOf("bob") + ", which is nobody's key in the directory")}}},
		{name: "the delegate has left", given: given(t, first), book: func(w *world) { delete(w.groups, "mallory") },
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
				dropped: []string{past("the key is nobody's in the directory")}}},
		{name: "the giver is locked", given: given(t, first), locks: held(t, lock(t, "user", "bob")),
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", dropped: []string{past("user bob is locked by erin: stolen")}}},
		{name: "the delegate is locked", given: given(t, first), locks: held(t, lock(t, "user", "mallory")),
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", dropped: []string{past("user mallory is locked by erin: stolen")}}},

		{name: "signed by another than the record says", given: Delegations{{first, sign(t, "mallory", first)}},
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
				dropped: []string{past("the delegation by bob doesn't hold any more: delegation names bob as its signer, but is signed by a key of mallory")}}},
		{name: "for the requester", given: given(t, give("alice", "mallory")), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("alice"))}
		}, want: verdict{code: access.CodeForbidden, why: "nobody decides in the place of alice, who asks"}},
		{name: "by the requester", given: given(t, give("bob", "alice")), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "alice", instead("bob"))}
		}, want: verdict{code: access.CodeForbidden, why: "nobody decides on a request of his own"}},

		// Giver and delegate are one person.
		{name: "giver and delegate", role: "two", given: given(t, first), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "bob"), w.decide(r, "mallory", instead("bob"))}
		}, want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", dropped: []string{past("bob has decided already")}, voices: "bob"}},
		{name: "delegate and giver", role: "two", given: given(t, first), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("bob")), w.decide(r, "bob")}
		}, want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
			dropped: []string{"approve by bob doesn't count: mallory for bob (delegated) has decided already"}, voices: "mallory"}},
		{name: "delegate of two", role: "two", given: given(t, first, give("carol", "mallory")), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("bob")), w.decide(r, "mallory", instead("carol"))}
		}, want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
			dropped: []string{"approve by mallory for carol (delegated) doesn't count: mallory for bob (delegated) has decided already"}, voices: "mallory"}},
		{name: "two delegates of one", role: "two", given: given(t, first, give("bob", "frank")), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("bob")), w.decide(r, "frank", instead("bob"))}
		}, want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
			dropped: []string{"approve by frank for bob (delegated) doesn't count: mallory for bob (delegated) has decided already"}, voices: "mallory"}},
		{name: "a delegate with a say of his own, for both sets", role: "mixed", given: given(t, give("bob", "dave")), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "dave", instead("bob")), w.decide(r, "dave")}
		}, want: verdict{effect: access.EffectAsk, why: "needs 1 approval from dba",
			dropped: []string{"approve by dave doesn't count: dave for bob (delegated) has decided already"}, voices: "dave"}},
		{name: "a delegate with a say of his own, first", role: "mixed", given: given(t, give("bob", "dave")), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "dave"), w.decide(r, "dave", instead("bob"))}
		}, want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
			dropped: []string{"approve by dave for bob (delegated) doesn't count: dave has decided already"}, voices: "dave"}},
		{name: "a say of his own that counts again", role: "two", given: given(t, first, give("carol", "dave")), words: func(r access.Statement) []access.Statement {
			// Dave was not in sre when he spoke for carol, and is again.
			return []access.Statement{w.decide(r, "dave"), w.decide(r, "dave", instead("carol"))}
		}, book: func(w *world) { w.groups["dave"] = []string{"sre"} },
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
				dropped: []string{"approve by dave for carol (delegated) doesn't count: dave has decided already"}, voices: "dave"}},
		{name: "two people with two says", role: "two", given: given(t, first), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("bob")), w.decide(r, "carol")}
		}, want: verdict{effect: access.EffectAllow, why: "approved by mallory for bob (delegated), carol", duration: time.Hour, voices: "mallory carol"}},
		{name: "the giver, once the delegate's word counts no more", given: given(t, first, takeBack("bob", first, 70*time.Second)), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("bob")), w.decide(r, "bob", at(80*time.Second))}
		}, want: verdict{effect: access.EffectAllow, why: "approved by bob", duration: time.Hour, dropped: []string{none}, voices: "bob"}},

		{name: "denied in another's place", given: given(t, first), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("bob"), deny("no"))}
		}, want: verdict{effect: access.EffectDeny, why: "denied by mallory for bob (delegated): no", voices: "mallory"}},
		{name: "one denial by two with one say", role: "majority", given: given(t, first), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("bob"), deny("no")), w.decide(r, "bob", deny("no"))}
		}, want: verdict{effect: access.EffectAsk, why: `needs 1 approval from dba and 1 from sre; has 1 of the 2 denials that end it (rule "majority")`,
			dropped: []string{"deny by bob doesn't count: mallory for bob (delegated) has decided already"}, voices: "mallory"}},

		{name: "an escalation is not reached sooner", role: "slow", given: given(t, give("dave", "mallory")), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("dave"))}
		}, want: verdict{effect: access.EffectAsk, why: "needs 2 approvals from sre",
			dropped: []string{"approve by mallory for dave (delegated) doesn't count: the groups that dave has delegated are not asked before 2026-11-20T10:10:00Z"}}},
		{name: "and then it is", role: "slow", given: given(t, give("dave", "mallory")), now: 12 * time.Minute, words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("dave"), at(11*time.Minute))}
		}, want: verdict{effect: access.EffectAsk, why: "needs 1 approval from dba or sre", voices: "mallory"}},

		// Rules that want decisions in person.
		{name: "where the rule wants it in person", role: "person", given: given(t, first),
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
				dropped: []string{past(`rule "person" takes decisions in person only`)}}},
		{name: "in person, of a delegate who is one of sre himself", role: "person", given: given(t, give("bob", "carol")), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "carol")}
		}, want: verdict{effect: access.EffectAllow, why: "approved by carol", duration: time.Hour, voices: "carol"}},
		{name: "not by him for another", role: "person", given: given(t, give("bob", "carol")), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "carol", instead("bob"))}
		}, want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
			dropped: []string{"approve by carol for bob (delegated) doesn't count: rule \"person\" takes decisions in person only"}}},
		{name: "a denial in another's place", role: "person", given: given(t, first), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("bob"), deny(""))}
		}, want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre",
			dropped: []string{"deny by mallory for bob (delegated) doesn't count: rule \"person\" takes decisions in person only"}}},
		{name: "then in person after all", role: "person", given: given(t, first), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("bob")), w.decide(r, "bob")}
		}, want: verdict{effect: access.EffectAllow, why: "approved by bob", duration: time.Hour, voices: "bob",
			dropped: []string{past(`rule "person" takes decisions in person only`)}}},
		{name: "for the rule that doesn't", role: "half", given: given(t, first),
			want: verdict{effect: access.EffectAsk, why: "needs 1 approval from sre", voices: "mallory"}},
		{name: "for the rule that doesn't, and somebody in person", role: "half", given: given(t, first), words: func(r access.Statement) []access.Statement {
			return []access.Statement{w.decide(r, "mallory", instead("bob")), w.decide(r, "carol")}
		}, want: verdict{effect: access.EffectAllow, why: "approved by mallory for bob (delegated), carol", duration: time.Hour, voices: "mallory carol"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			role := tt.role
			if role == "" {
				role = "web"
			}
			request := w.ask(on(role))
			words := []access.Statement{w.decide(request, "mallory", instead("bob"))}
			if tt.words != nil {
				words = tt.words(request)
			}
			on := w
			if tt.book != nil {
				on = w.change(tt.book)
			}
			now := 2 * time.Minute
			if tt.now != 0 {
				now = tt.now
			}
			ev := evidence(request, words...)
			ev.Delegations = []access.Statement{sign(t, "bob", give("bob", "mallory"))} // what is sent along is worth nothing
			s, counts, err := on.book().Under(tt.locks).Through(tt.given).Settle(ev, asked.Add(now), Known{})
			tt.want.check(t, s, err)
			if err != nil {
				return
			}
			// What it rests on is enough to come to the same.
			again, _, err := on.book().Under(tt.locks).Through(tt.given.Of(counts.Delegations)).Settle(counts, asked.Add(now), Known{})
			if err != nil || again.Effect != s.Effect || again.Why != s.Why || len(again.Dropped) > 0 {
				t.Errorf("of what counts alone: %s: %s %v, %v", again.Effect, again.Why, again.Dropped, err)
			}
			for _, v := range s.Voices {
				if (v.For != "") != (len(counts.Delegations) > 0) && len(s.Voices) == 1 {
					t.Errorf("%+v rests on %d delegations", v, len(counts.Delegations))
				}
			}
		})
	}
}

func TestHearThroughDelegations(t *testing.T) {
	w := withDelegates(t)
	first := give("bob", "mallory")
	book := w.book().Through(given(t, first))
	request := w.ask(on("two"))
	now := asked.Add(2 * time.Minute)
	_, ev, err := book.Hear(evidence(request), w.decide(request, "mallory", instead("bob")), now, Known{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		word access.Statement
		code access.Code
		want string
	}{
		{"the giver afterwards", w.decide(request, "bob"), access.CodeDuplicate, "mallory for bob (delegated) has decided on this request already"},
		{"the delegate for himself", w.decide(request, "mallory"), access.CodeDuplicate, "mallory for bob (delegated) has decided on this request already"},
		{"the same again", w.decide(request, "mallory", instead("bob")), access.CodeDuplicate, "mallory for bob (delegated) has decided on this request already"},
		{"a stranger for the giver", w.decide(request, "frank", instead("bob")), access.CodeDuplicate, "mallory for bob (delegated) has decided on this request already"},
		{"for who has delegated nothing", w.decide(request, "frank", instead("carol")), access.CodeForbidden, "approve by frank for carol (delegated) doesn't count: no delegation by carol to frank is in force"},
		{"for the requester", w.decide(request, "frank", instead("alice")), access.CodeForbidden, "nobody decides in the place of alice, who asks"},
		{"another of them", w.decide(request, "carol"), "", ""},
	} {
		_, _, err := book.Hear(ev, tt.word, now, Known{})
		t.Run(tt.name, func(t *testing.T) { wantCode(t, err, tt.code, tt.want) })
	}
}

// Whoever decides in another's place where the rule wants that one in person is
// told so.
func TestHearInPerson(t *testing.T) {
	w := withDelegates(t)
	book := w.book().Through(given(t, give("bob", "mallory")))
	request := w.ask(on("person"))
	_, _, err := book.Hear(evidence(request), w.decide(request, "mallory", instead("bob")), asked.Add(2*time.Minute), Known{})
	wantCode(t, err, access.CodeForbidden, `approve by mallory for bob (delegated) doesn't count: rule "person" takes decisions in person only`)
}

func TestCheckDelegation(t *testing.T) {
	w := withDelegates(t)
	first := give("bob", "mallory", during(time.Minute, time.Hour))
	long := give("bob", "mallory", during(time.Minute, 5*time.Hour))
	var full []access.Delegation
	for i := range access.MaxDelegations {
		full = append(full, give("bob", fmt.Sprintf("u%02d", i)))
	}
	const now = 2 * time.Minute
	for _, tt := range []struct {
		name  string
		given Delegations
		locks Locks
		key   string // default: the signer's
		d     access.Delegation
		now   time.Duration
		code  access.Code
		want  string
	}{
		{name: "all that he has", d: first},
		{name: "one of his groups", d: give("bob", "mallory", groups("sre"))},
		{name: "to one of his own group", d: give("bob", "carol")},
		{name: "a group of another", d: give("bob", "mallory", groups("sre", "dba")), code: access.CodeForbidden,
			want: "bob is not in dba: nobody delegates more than he has, or what was delegated to him"},
		{name: "what was delegated to him", given: given(t, give("dave", "bob")), d: give("bob", "mallory", groups("dba")), code: access.CodeForbidden,
			want: "bob is not in dba: nobody delegates more than he has, or what was delegated to him"},
		{name: "to nobody", d: give("bob", "nobody"), code: access.CodeNotFound, want: "there is no nobody in the directory"},
		{name: "back and forth", given: given(t, give("mallory", "bob")), d: first, code: access.CodeForbidden,
			want: "it would go in a circle: mallory delegates to bob already"},
		{name: "in a circle", given: given(t, give("mallory", "frank"), give("frank", "carol"), give("carol", "bob")), d: first, code: access.CodeForbidden,
			want: "it would go in a circle: mallory delegates to frank delegates to carol delegates to bob already"},
		{name: "what is over makes no circle", given: given(t, give("mallory", "bob", during(0, now))), d: first},
		{name: "one too many", given: given(t, full...), d: first, code: access.CodeForbidden, want: "bob has 20 delegations in force, which is all that there can be"},
		{name: "the last one", given: given(t, full[1:]...), d: first},
		{name: "by a stranger", key: "stranger", d: first, code: access.CodeUnverified,
			want: "delegation is signed by SHA256:" + fingerprintOf("stranger") + ", which is nobody's key in the directory"},
		{name: "in another's name", key: "mallory", d: first, code: access.CodeUnverified, want: "delegation names bob as its signer, but is signed by a key of mallory"},
		{name: "from the future", d: give("bob", "mallory", during(now+skew+time.Second, time.Hour)), code: access.CodeStale, want: "delegation is dated more than 5m in the future"},
		{name: "from the near future", d: give("bob", "mallory", during(now+skew, time.Hour))},
		{name: "an hour old", d: give("bob", "mallory", during(0, 5*time.Hour)), now: time.Hour},
		{name: "older", d: give("bob", "mallory", during(0, 5*time.Hour)), now: time.Hour + time.Second, code: access.CodeStale, want: "the delegation is older than 1h"},
		{name: "over", d: give("bob", "mallory", during(0, now)), code: access.CodeStale, want: "the delegation has ended at 2026-11-20T10:02:00Z, before it came"},
		{name: "by who is locked", locks: held(t, lock(t, "user", "bob")), d: first, code: access.CodeForbidden,
			want: "user bob is locked by erin: stolen, so nothing is delegated by or to him"},
		{name: "to who is locked", locks: held(t, lock(t, "user", "mallory")), d: first, code: access.CodeForbidden,
			want: "user mallory is locked by erin: stolen, so nothing is delegated by or to him"},

		{name: "revoked by the giver", given: given(t, first), d: takeBack("bob", first, now)},
		{name: "revoked before it begins", given: given(t, give("bob", "mallory", during(now+skew, time.Hour), func(d *access.Delegation) { d.ID = first.ID })), d: takeBack("bob", first, now)},
		{name: "a circle that begins soon", given: given(t, give("mallory", "bob", during(now+skew, time.Hour))), d: first, code: access.CodeForbidden,
			want: "it would go in a circle: mallory delegates to bob already"},
		{name: "revoked by the giver, who is locked", given: given(t, first), locks: held(t, lock(t, "user", "bob")), d: takeBack("bob", first, now)},
		{name: "revoked by whom policy lets lock", given: given(t, first), d: takeBack("trent", first, now)},
		{name: "revoked by one of those, who is locked", given: given(t, first), locks: held(t, lock(t, "user", "trent")), d: takeBack("trent", first, now),
			code: access.CodeForbidden, want: "user trent is locked by erin: stolen, so he revokes nothing"},
		{name: "revoked by a word that waited for long", given: given(t, long), d: takeBack("bob", long, now), now: 3 * time.Hour},
		{name: "revoked by the delegate", given: given(t, first), d: takeBack("mallory", first, now), code: access.CodeForbidden,
			want: "delegation " + first.ID + " is bob's: he revokes it, or somebody whom policy lets lock"},
		{name: "revoked when there is none", d: takeBack("bob", first, now), code: access.CodeNotFound, want: "no delegation " + first.ID + " is in force"},
		{name: "revoked twice", given: given(t, first, takeBack("bob", first, now)), d: takeBack("bob", first, now), code: access.CodeNotFound,
			want: "no delegation " + first.ID + " is in force"},
		{name: "revoked as another's", given: given(t, first), d: takeBack("bob", give("bob", "frank", func(d *access.Delegation) { d.ID = first.ID }), now),
			code: access.CodeMismatch, want: "delegation " + first.ID + " is to mallory, not to frank"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at := tt.now
			if at == 0 {
				at = now
			}
			key := tt.key
			if key == "" {
				key = tt.d.Signer
			}
			_, _, err := w.book().Under(tt.locks).Through(tt.given).CheckDelegation(sign(t, key, tt.d), asked.Add(at))
			wantCode(t, err, tt.code, tt.want)
		})
	}
	// White space is free; what is listed has to fit an answer.
	st := sign(t, "bob", first)
	st.Payload += strings.Repeat("\n", access.MaxDelegationPayload)
	var err error
	if st.Signature, err = statement.SignData(signer("bob"), "delegation@hallpass", []byte(st.Payload)); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.book().CheckDelegation(st, asked.Add(now))
	wantCode(t, err, access.CodeMalformed, "the delegation is longer than 4096 bytes")
}

func TestDelegationsAfter(t *testing.T) {
	old, later := give("bob", "mallory"), time.Hour+2*skew
	all := given(t, old, give("bob", "frank", during(later, later+time.Hour)))
	if _, there := all.Find(old.ID); there || len(all) != 1 {
		t.Errorf("what ended a while ago is kept: %+v", all)
	}
	if all = given(t, old, give("bob", "frank", during(later-time.Second, later+time.Hour))); len(all) != 2 {
		t.Error("what somebody may yet judge by is not")
	}
	if got := all.Open(asked.Add(time.Hour)); len(got) != 1 || got[0].Delegation.ID == old.ID {
		t.Errorf("open are %+v", got)
	}
}

func TestPlaces(t *testing.T) {
	w := withDelegates(t)
	w.groups["bob"] = []string{"dba", "sre"}
	given := given(t, give("dave", "mallory"), give("bob", "mallory", groups("sre")), give("carol", "frank"), give("ghost", "mallory"),
		give("erin", "mallory", during(time.Hour, 2*time.Hour)))
	got := w.book().Through(given).Places("mallory", asked.Add(time.Minute))
	want := []access.User{{Name: "bob", Groups: []string{"sre"}}, {Name: "dave", Groups: []string{"dba"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
