package policy

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ruleFile wraps lines of one rule, the first of which stands in line 2 of the
// file, column 5.
func ruleFile(lines ...string) string {
	return "rules:\n  - " + strings.Join(lines, "\n    ") + "\n"
}

// problemsOf is all that Parse found wrong.
func problemsOf(err error) (out Problems) {
	errors.As(err, &out)
	return out
}

func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse("policy.yaml", []byte(text))
	if err != nil {
		for _, problem := range problemsOf(err) {
			t.Log(problem)
		}
		t.Fatal(err)
	}
	return p
}

func TestParseRefuses(t *testing.T) {
	list := func(n int, item string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(item+", ", n), ", ") + "]"
	}
	groups := func(n int) string {
		var g []string
		for i := range n {
			g = append(g, fmt.Sprintf("g%d", i))
		}
		return "[" + strings.Join(g, ", ") + "]"
	}
	for name, c := range map[string]struct {
		text string
		want []string // "" for a file that loads
	}{
		"empty file":        {"", []string{`policy.yaml:1:1: file is empty`}},
		"comment only":      {"# nothing\n", []string{`policy.yaml:1:1: file is empty`}},
		"no rules key":      {"{}\n", []string{`policy.yaml:1:1: policy has no rules`}},
		"no rules":          {"rules: []\n", []string{`policy.yaml:1:1: no rules: an empty policy would deny everything; say so with a rule, or restore the file`}},
		"null rules":        {"rules:\n", []string{`policy.yaml:1:1: rules is empty`}},
		"a list":            {"- a\n", []string{`policy.yaml:1:1: policy must be a mapping with hosts, locks, rules, windows, not a list`}},
		"rules a mapping":   {"rules: {a: b}\n", []string{`policy.yaml:1:9: rules must be a list, not a mapping`}},
		"unknown field":     {"rulez: []\nrules: []\n", []string{`policy.yaml:1:1: unknown field "rulez" in policy; known are hosts, locks, rules, windows`}},
		"not UTF-8":         {"rules: \xff\n", []string{`policy.yaml:1:1: file is not valid UTF-8`}},
		"control":           {"rules:\n- a\x16\n", []string{`policy.yaml:2:1: line has the control character U+0016`}},
		"lone CR":           {"rules:\n\r- a\n", []string{`policy.yaml:2:1: line has the control character U+000D`}},
		"CR LF":             {strings.ReplaceAll(ruleFile("name: a", "when: true", "approvals: none"), "\n", "\r\n"), nil},
		"two documents":     {ruleFile("name: a", "when: true", "approvals: none") + "---\nrules: []\n", []string{`policy.yaml:6:1: a second document in the same file`}},
		"anchor":            {"rules: &a []\n", []string{`policy.yaml:1:8: "&" has a meaning in YAML that is not supported here; put the text in quotes`}},
		"merge":             {"rules:\n  - <<: {name: a}\n", []string{`policy.yaml:2:5: "<<" has a meaning in YAML that is not supported here; put the text in quotes`}},
		"deep":              {"rules: " + strings.Repeat("[", 17) + strings.Repeat("]", 17), []string{`policy.yaml:1:24: lists and mappings are nested more than 16 deep`}},
		"dashes":            {"rules:\n" + strings.Repeat("- ", 17) + "a\n", []string{`policy.yaml:2:33: lists and mappings are nested more than 16 deep`}},
		"indent":            {"rules:\n" + strings.Repeat(" ", 64) + "- a\n", []string{`policy.yaml:2:65: line is indented by more than 64 columns`}},
		"fields":            {"rules:\n  - name: a\n" + numbered("    f%d: x\n", 256), []string{`policy.yaml:258:9: more than 256 fields`}},
		"fields at the top": {numbered("f%d:\n- x\n", 257), []string{`policy.yaml:513:5: more than 256 fields`}},
		"commas":            {"rules: [" + strings.Repeat("a, ", 1001) + "a]\n", []string{`policy.yaml:1:3010: more than 1000 entries in brackets; write them one a line`}},
		"empty items":       {"rules:\n  -\n  - x\n", []string{`policy.yaml:2:3: list item is missing behind the dash`}},
		"commented items":   {"rules:\n  - # x\n  - x\n", []string{`policy.yaml:2:3: list item is missing behind the dash`}},
		"empty lines":       {"rules: |\n  x\n" + strings.Repeat(" \n", 101), []string{`policy.yaml:3:1: more than 100 empty lines begin here`}},
		"fewer of all":      {"rules: |\n  x\n" + strings.Repeat("\n", 100), []string{`policy.yaml:1:8: rules must be a list`}},
		"duplicate key":     {ruleFile("name: a", "name: b", "when: true", "approvals: none"), []string{`policy.yaml:3:5: not YAML: mapping key "name" already defined at [2:5]`}},

		"fine":              {ruleFile("name: a", "when: true", "approvals: none"), nil},
		"name missing":      {ruleFile("when: true", "approvals: none"), []string{`policy.yaml:2:5: rule has no name`}},
		"name bad":          {ruleFile("name: A b", "when: true", "approvals: none"), []string{`policy.yaml:2:11: name "A b" has a character outside a-z 0-9 . _ @ + -`}},
		"name a number":     {ruleFile("name: 7", "when: true", "approvals: none"), []string{`policy.yaml:2:11: name must be text; put 7 in quotes if that is meant`, `policy.yaml:2:11: name is empty`}},
		"when missing":      {ruleFile("name: a", "approvals: none"), []string{`policy.yaml:2:5: rule has no when`}},
		"unknown rule key":  {ruleFile("name: a", "when: true", "approvals: none", "window: 1h"), []string{`policy.yaml:5:5: unknown field "window" in rule; known are approval_window, approvals, auto, denies, deny, emergency, escalate, in_person, limits, max_duration, name, require, revoke, ssh, total, when`}},
		"case variant":      {ruleFile("name: a", "When: true", "when: true", "approvals: none"), []string{`policy.yaml:3:5: unknown field "When" in rule; known are approval_window, approvals, auto, denies, deny, emergency, escalate, in_person, limits, max_duration, name, require, revoke, ssh, total, when`}},
		"two of one name":   {"rules:\n  - {name: a, when: true, deny: x}\n  - {name: a, when: true, deny: y}\n", []string{`policy.yaml:3:12: rule "a" is there already, in line 2; names are unique`}},
		"nothing taken":     {ruleFile("name: a", "when: true"), []string{`policy.yaml:2:5: rule "a" does not say what it takes: add approvals, or "approvals: none" to allow without, or deny`}},
		"approvals empty":   {ruleFile("name: a", "when: true", "approvals:"), []string{`policy.yaml:4:5: approvals is empty`, `policy.yaml:2:5: rule "a" does not say what it takes: add approvals, or "approvals: none" to allow without, or deny`}},
		"approvals []":      {ruleFile("name: a", "when: true", "approvals: []"), []string{`policy.yaml:4:16: approvals has 0 sets, not 1 to 8; write "approvals: none" where none are needed`}},
		"approvals word":    {ruleFile("name: a", "when: true", "approvals: nobody"), []string{`policy.yaml:4:16: approvals must be a list`}},
		"8 sets":            {ruleFile("name: a", "when: true", "approvals: "+list(8, "{count: 1, from: [g]}")), nil},
		"9 sets":            {ruleFile("name: a", "when: true", "approvals: "+list(9, "{count: 1, from: [g]}")), []string{`policy.yaml:4:16: approvals has 9 sets, not 1 to 8; write "approvals: none" where none are needed`}},
		"count 0":           {ruleFile("name: a", "when: true", "approvals: [{count: 0, from: [g]}]"), []string{`policy.yaml:4:25: count must be a number from 1 to 16`}},
		"count 16":          {ruleFile("name: a", "when: true", "approvals: [{count: 16, from: [g]}]"), nil},
		"count 17":          {ruleFile("name: a", "when: true", "approvals: [{count: 17, from: [g]}]"), []string{`policy.yaml:4:25: count must be a number from 1 to 16`}},
		"count -1":          {ruleFile("name: a", "when: true", "approvals: [{count: -1, from: [g]}]"), []string{`policy.yaml:4:25: count must be a number from 1 to 16`}},
		"count huge":        {ruleFile("name: a", "when: true", "approvals: [{count: 99999999999999999999999, from: [g]}]"), []string{`policy.yaml:4:25: count must be a number from 1 to 16`}},
		"count text":        {ruleFile("name: a", "when: true", `approvals: [{count: "1", from: [g]}]`), []string{`policy.yaml:4:25: count must be a number from 1 to 16`}},
		"count 1.0":         {ruleFile("name: a", "when: true", `approvals: [{count: 1.0, from: [g]}]`), []string{`policy.yaml:4:25: count must be a number from 1 to 16`}},
		"count missing":     {ruleFile("name: a", "when: true", "approvals: [{from: [g]}]"), []string{`policy.yaml:4:18: approvals has no count`}},
		"from missing":      {ruleFile("name: a", "when: true", "approvals: [{count: 1}]"), []string{`policy.yaml:4:18: approvals has no from`}},
		"from nobody":       {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: []}]"), []string{`policy.yaml:4:34: from has 0 names, not 1 to 64`}},
		"from one word":     {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: sre}]"), []string{`policy.yaml:4:34: from must be a list`}},
		"from twice":        {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g, g]}]"), []string{`policy.yaml:4:38: from names "g" twice`}},
		"64 groups":         {ruleFile("name: a", "when: true", "approvals: none", "revoke: "+groups(64)), nil},
		"65 groups":         {ruleFile("name: a", "when: true", "approvals: none", "revoke: "+groups(65)), []string{`policy.yaml:5:13: revoke has 65 names, not 1 to 64`}},
		"deny with others":  {ruleFile("name: a", "when: true", "deny: no", "approvals: none", "max_duration: 1h"), []string{`policy.yaml:6:19: a rule that denies has no max_duration`, `policy.yaml:5:16: a rule that denies has no approvals`}},
		"deny with revoke":  {ruleFile("name: a", "when: true", "deny: no", "revoke: [g]"), nil},
		"deny blank":        {ruleFile("name: a", "when: true", "deny: ' '"), []string{`policy.yaml:4:11: deny is empty: say why, people will read it`}},
		"deny 200":          {ruleFile("name: a", "when: true", "deny: "+strings.Repeat("x", 200)), nil},
		"deny 201":          {ruleFile("name: a", "when: true", "deny: "+strings.Repeat("x", 201)), []string{`policy.yaml:4:11: deny is longer than 200 bytes`}},
		"deny escape":       {ruleFile("name: a", "when: true", `deny: "a\x1b[2J"`), []string{`policy.yaml:4:11: deny contains the control or invisible character U+001B`}},
		"in person":         {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "in_person: true"), nil},
		"in person, maybe":  {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "in_person: yes"), []string{`policy.yaml:5:16: in_person must be true or false`}},
		"in person, nobody": {ruleFile("name: a", "when: true", "approvals: none", "in_person: true"), []string{`policy.yaml:5:16: in_person without approvals: nobody is asked`}},
		"in person deny":    {ruleFile("name: a", "when: true", "deny: no", "in_person: true"), []string{`policy.yaml:5:16: a rule that denies has no in_person`}},
		"denies 2":          {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "denies: 2"), nil},
		"denies 0":          {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "denies: 0"), []string{`policy.yaml:5:13: denies must be a number from 1 to 16`}},
		"denies 17":         {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "denies: 17"), []string{`policy.yaml:5:13: denies must be a number from 1 to 16`}},
		"denies on nothing": {ruleFile("name: a", "when: true", "approvals: none", "denies: 2"), []string{`policy.yaml:5:13: denies without approvals: nobody is asked who could deny`}},
		"escalate":          {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "escalate: [{after: 1s, ask: [h]}, {after: 2s, notify: [i]}]"), nil},
		"escalate to none":  {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "escalate: [{after: 10m}]"), []string{`policy.yaml:5:17: step names nobody: add ask, for groups that may decide from then on, or notify`}},
		"escalate at once":  {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "escalate: [{after: 0s, ask: [h]}]"), []string{`policy.yaml:5:24: after is 0s, not 1s to 1d`}},
		"escalate backward": {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "escalate: [{after: 2m, ask: [h]}, {after: 2m, ask: [i]}]"), []string{`policy.yaml:5:47: after is 2m, not longer than the step before it`}},
		"escalate too late": {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "approval_window: 10m", "escalate: [{after: 10m, ask: [h]}]"), []string{`policy.yaml:6:15: the last step comes after 10m, when the approval window of 10m is over`}},
		"escalate after 8h": {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "escalate: [{after: 8h, ask: [h]}]"), []string{`policy.yaml:5:15: the last step comes after 8h, when the approval window of 8h is over`}},
		"9 steps":           {ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "escalate: "+list(9, "{after: 1m, ask: [h]}")), []string{`policy.yaml:5:15: escalate has 9 steps, not 1 to 8`}},
		"escalate nothing":  {ruleFile("name: a", "when: true", "approvals: none", "escalate: [{after: 1m, ask: [h]}]"), []string{`policy.yaml:5:15: escalate without approvals: there is nothing to wait for`}},
		"auto on nothing":   {ruleFile("name: a", "when: true", "approvals: none", "auto: true"), []string{`policy.yaml:5:11: auto without approvals has nothing to waive`}},
		"duration 59s":      {ruleFile("name: a", "when: true", "approvals: none", "max_duration: 59s"), []string{`policy.yaml:5:19: max_duration is 59s, not 1m to 30d`}},
		"duration 1m":       {ruleFile("name: a", "when: true", "approvals: none", "max_duration: 1m"), nil},
		"duration 30d":      {ruleFile("name: a", "when: true", "approvals: none", "max_duration: 30d"), nil},
		"duration over":     {ruleFile("name: a", "when: true", "approvals: none", "max_duration: 30d1s"), []string{`policy.yaml:5:19: max_duration is 30d1s, not 1m to 30d`}},
		"duration negative": {ruleFile("name: a", "when: true", "approvals: none", "max_duration: -1h"), []string{`policy.yaml:5:19: max_duration is -1h, not 1m to 30d`}},
		"duration number":   {ruleFile("name: a", "when: true", "approvals: none", "max_duration: 60"), []string{`policy.yaml:5:19: max_duration must be text; put 60 in quotes if that is meant`}},
		"duration words":    {ruleFile("name: a", "when: true", "approvals: none", "max_duration: a day"), []string{`policy.yaml:5:19: max_duration: duration "a day" is not like 45s, 30m, 8h or 1d12h`}},
		"window 24h":        {ruleFile("name: a", "when: true", "approvals: none", "approval_window: 24h"), nil},
		"window over":       {ruleFile("name: a", "when: true", "approvals: none", "approval_window: 24h1s"), []string{`policy.yaml:5:22: approval_window is 1d1s, not 1s to 1d`}},
		"reason a word":     {ruleFile("name: a", "when: true", "approvals: none", "require: {reason: yes}"), []string{`policy.yaml:5:23: reason must be true or false`}},
		"ticket regexp":     {ruleFile("name: a", "when: true", "approvals: none", "require: {ticket: '('}"), []string{"policy.yaml:5:23: ticket is not a regular expression (RE2): error parsing regexp: missing closing ): `(`"}},
		"ticket paren":      {ruleFile("name: a", "when: true", "approvals: none", "require: {ticket: 'a)|(b'}"), []string{"policy.yaml:5:23: ticket is not a regular expression (RE2): error parsing regexp: unexpected ): `a)|(b`"}},
		"ticket empty":      {ruleFile("name: a", "when: true", "approvals: none", "require: {ticket: ''}"), []string{`policy.yaml:5:23: ticket is empty: write a regular expression, such as '^OPS-[0-9]+$'`}},
		"extension unknown": {ruleFile("name: a", "when: true", "approvals: none", "ssh: {extensions: [permit-all]}"), []string{`policy.yaml:5:24: unknown extension "permit-all"; known are permit-X11-forwarding, permit-agent-forwarding, permit-port-forwarding, permit-pty, permit-user-rc`}},
		"extension touch":   {ruleFile("name: a", "when: true", "approvals: none", "ssh: {extensions: [no-touch-required]}"), []string{`policy.yaml:5:24: unknown extension "no-touch-required"; known are permit-X11-forwarding, permit-agent-forwarding, permit-port-forwarding, permit-pty, permit-user-rc`}},
		"no extensions":     {ruleFile("name: a", "when: true", "approvals: none", "ssh: {extensions: []}"), nil},
		"command":           {ruleFile("name: a", "when: true", "approvals: none", `ssh: {force_command: "a\nb"}`), []string{`policy.yaml:5:26: force_command contains the control or invisible character U+000A`}},
		"blank command":     {ruleFile("name: a", "when: true", "approvals: none", `ssh: {force_command: " "}`), []string{`policy.yaml:5:26: force_command is blank, which would force nothing; leave it out instead`}},
		"empty command":     {ruleFile("name: a", "when: true", "approvals: none", `ssh: {force_command: ""}`), []string{`policy.yaml:5:26: force_command is blank, which would force nothing; leave it out instead`}},
		"source":            {ruleFile("name: a", "when: true", "approvals: none", "ssh: {source_address: [10.0.0.0/33]}"), []string{`policy.yaml:5:28: source_address "10.0.0.0/33" is not an address or network such as 10.0.0.0/8`}},
		"source name":       {ruleFile("name: a", "when: true", "approvals: none", "ssh: {source_address: [office]}"), []string{`policy.yaml:5:28: source_address "office" is not an address or network such as 10.0.0.0/8`}},
		"grace":             {ruleFile("name: a", "when: true", "approvals: none", "ssh: {grace: 4h, warn: 10s}"), nil},
		"no grace":          {ruleFile("name: a", "when: true", "approvals: none", "ssh: {grace: 0s, warn: 1h}"), nil},
		"too much grace":    {ruleFile("name: a", "when: true", "approvals: none", "ssh: {grace: 4h1s}"), []string{`policy.yaml:5:18: grace is 4h1s, not 0s to 4h`}},
		"no warning":        {ruleFile("name: a", "when: true", "approvals: none", "ssh: {warn: 9s}"), []string{`policy.yaml:5:17: warn is 9s, not 10s to 1h`}},
		"too early":         {ruleFile("name: a", "when: true", "approvals: none", "ssh: {warn: 61m}"), []string{`policy.yaml:5:17: warn is 1h1m, not 10s to 1h`}},
		"source none":       {ruleFile("name: a", "when: true", "approvals: none", "ssh: {source_address: []}"), []string{`policy.yaml:5:27: source_address has 0 networks, not 1 to 64`}},
		"64 sources":        {ruleFile("name: a", "when: true", "approvals: none", "ssh: {source_address: "+list(64, "10.0.0.1")+"}"), nil},
		"65 sources":        {ruleFile("name: a", "when: true", "approvals: none", "ssh: {source_address: "+list(65, "10.0.0.1")+"}"), []string{`policy.yaml:5:27: source_address has 65 networks, not 1 to 64`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("policy.yaml", []byte(c.text))
			var got []string
			for _, p := range problemsOf(err) {
				got = append(got, p.Error())
			}
			// What is wrong with fields comes in their order in the file.
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// numbered writes format n times.
func numbered(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

func TestParseConditions(t *testing.T) {
	for _, c := range []struct{ when, want string }{
		{`true`, ""},
		{`resource.name == "ssh/a" # a comment`, ""},
		{`has(resource.labels.x) || size(resource.labels) > 1 || resource.labels.exists(k, k == "q")`, ""},
		{`has(context.x) && context.x == 1`, ""},
		{`'now.getHours("Europe/Berlin") < 18 || now.getHours("-08:00") == 1'`, ""},
		{`1`, `3:11: condition must be text; put 1 in quotes if that is meant`},
		{`null`, `3:5: when is empty`},
		{`''`, `3:11: condition is empty; write true if it always applies`},
		{`"dev" in requester.groups`, `3:17: not YAML: value is not allowed in this context. map key-value is pre-defined; put conditions that begin with a quote or bracket, or have a colon in them, in quotes or behind a |`},
		{`!(request.reason == "")`, `3:11: "!(request.reason" has a meaning in YAML that is not supported here; put the text in quotes`},
		{`resource.knd == "ssh"`, `3:19: resource has no field "knd"; it has name, kind, labels, logins, hosts, actions`},
		{`resource == "ssh"`, `3:11: resource alone is not a value; it has name, kind, labels, logins, hosts, actions`},
		{`resource.kind == "ssh" && foo`, `3:37: undeclared reference to 'foo'`},
		{`'resource.kind == "ssh" && foo'`, `3:38: undeclared reference to 'foo'`},
		{"|\n      true &&\n        foo", `5:9: undeclared reference to 'foo'`},
		{">\n      true &&\n        foo", `3:11: undeclared reference to 'foo'`},
		{`has(resource.kind)`, `3:14: resource.kind is always there; has() is for labels and context`},
		{`request.start`, `3:11: condition is timestamp, not bool`},
		{`context.x`, `3:11: condition is dyn, not bool`},
		{`resource.kind == 1`, `3:25: found no matching overload for '_==_' applied to '(string, int)'`},
		{`request.duration > duration("1x")`, `3:39: invalid duration argument`},
		{`request.reason.matches("(")`, `3:34: invalid matches argument`},
		{`now > timestamp("2026")`, `3:27: invalid timestamp argument`},
		{`now.getHours("Europe/Atlantis") > 1`, `3:24: unknown time zone "Europe/Atlantis"`},
		{`'resource.labels == {"env": "prod"}'`, `3:20: labels can be looked up, counted and gone through, but not used as a whole`},
		{`true || [resource.labels].size() == 1`, `3:28: labels can be looked up, counted and gone through, but not used as a whole`},
	} {
		t.Run(c.when, func(t *testing.T) {
			_, err := Parse("p", []byte(ruleFile("name: a", "when: "+c.when, "approvals: none")))
			got := ""
			if err != nil {
				got = strings.TrimPrefix(err.Error(), "p:")
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestParseBounds(t *testing.T) {
	long := func(n int) string {
		s := `resource.name != "` // ... and a closing quote
		return s + strings.Repeat("x", n-len(s)-1) + `"`
	}
	for _, c := range []struct {
		name, text string
		ok         bool
	}{
		{"expression at the bound", ruleFile("name: a", "when: "+long(MaxExpression), "deny: x"), true},
		{"expression over", ruleFile("name: a", "when: "+long(MaxExpression+1), "deny: x"), false},
		{"file at the bound", pad(ruleFile("name: a", "when: true", "deny: x"), MaxFile), true},
		{"file over", pad(ruleFile("name: a", "when: true", "deny: x"), MaxFile+1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Parse("p", []byte(c.text)); (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

// pad makes a file n bytes long.
func pad(s string, n int) string { return s + "#" + strings.Repeat("x", n-len(s)-1) }

func TestManyRules(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	file := func(n int) []byte {
		var b strings.Builder
		b.WriteString("rules:\n")
		for i := range n {
			fmt.Fprintf(&b, "- {name: r%d, when: true, deny: x}\n", i)
		}
		return []byte(b.String())
	}
	if _, err := Parse("p", file(MaxRules)); err != nil {
		t.Error(err)
	}
	_, err := Parse("p", file(MaxRules+1))
	if want := "p:2:1: more than 20000 rules"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestProblemsStop(t *testing.T) {
	_, err := Parse("p", []byte("rules:\n"+strings.Repeat("- {}\n", 1000)))
	if n := len(problemsOf(err)); n != maxProblems {
		t.Errorf("%d problems, want %d", n, maxProblems)
	}
	if want := "p:2:3: rule has no name (and 49 more)"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestRulesAreCopies(t *testing.T) {
	p := mustParse(t, ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [g]}]", "revoke: [s]", "ssh: {source_address: [10.1.2.3/8, 10.0.0.7]}"))
	rules := p.Rules()
	if diff := cmp.Diff([]string{"10.0.0.0/8"}, rules[0].SSH.SourceAddress); diff != "" {
		t.Error("source addresses are masked, and those inside another are dropped:", diff)
	}
	rules[0].Approvals[0].Groups[0], rules[0].Revoke[0], rules[0].SSH.SourceAddress[0] = "x", "x", "x"
	p.Data()[0] = 'x'
	if diff := cmp.Diff([]string{"g", "s"}, p.Groups()); diff != "" {
		t.Error(diff)
	}
	if p.Data()[0] == 'x' {
		t.Error("Data shares its bytes")
	}
}

// The examples of the documentation load, and its cases pass.
func TestDocumentation(t *testing.T) {
	doc, err := os.ReadFile("../docs/spec/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	var first *Policy
	cases := 0
	for i, part := range strings.Split(string(doc), "```") {
		text, ok := strings.CutPrefix(part, "yaml\n")
		switch {
		case i%2 == 0 || !ok:
		case strings.HasPrefix(text, "rules:"), strings.HasPrefix(text, "windows:"):
			p, err := Parse("docs/spec/policy.md", []byte(text))
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if first == nil {
				first = p
			}
		case strings.HasPrefix(text, "locks:"): // stands beside rules
			if _, err := Parse("docs/spec/policy.md", append(first.Data(), text...)); err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
		default:
			results, err := first.Test("docs/spec/policy.md", []byte(text), nil, nil)
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			for _, r := range results {
				cases++
				if !r.Passed() {
					t.Errorf("%s: %v", r.Name, r.Failures)
				}
			}
		}
	}
	if cases == 0 {
		t.Error("no cases found")
	}
}
