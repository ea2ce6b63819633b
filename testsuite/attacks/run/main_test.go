package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hallpass/testsuite/attacks"
)

var sample = []attacks.Attack{
	{Name: "first", Promise: 1, What: "x", Tests: []string{"ca.TestA", "ca/krl.FuzzB"}},
	{Name: "second", Promise: 2, What: "x", Tests: []string{"ca.TestC", "kill.txtar", "vault-ends.txtar"}},
}

func TestPlan(t *testing.T) {
	var got []string
	for _, r := range plan(sample) {
		got = append(got, r.pkg+" "+r.pattern)
	}
	want := []string{"./ca ^(TestA|TestC)$", "./ca/krl ^(FuzzB)$", "./testsuite ^TestScripts$/^(kill)$", "./testsuite ^TestVaultScripts$/^(vault-ends)$"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReport(t *testing.T) {
	const passed = `{"Action":"run","Test":"TestA"}
# something of the compiler's
{"Action":"pass","Test":"TestA/one"}
{"Action":"pass","Test":"TestA/two/deep"}
{"Action":"pass","Test":"TestA","Elapsed":1.5}
{"Action":"pass","Test":"FuzzB","Elapsed":0.1}
{"Action":"pass","Test":"TestC","Elapsed":0.1}
{"Action":"pass","Test":"TestScripts/kill","Elapsed":3}
{"Action":"pass","Test":"TestVaultScripts/vault-ends","Elapsed":3}
{"Action":"pass","Test":"TestUnknown"}
`
	names := map[string]string{"TestA": "ca.TestA", "FuzzB": "ca/krl.FuzzB", "TestC": "ca.TestC", "TestScripts/kill": "kill.txtar", "TestVaultScripts/vault-ends": "vault-ends.txtar"}
	for _, c := range []struct{ name, old, new, row, err string }{
		{"all held", "", "", "first   1        held  2 tests, 4 cases, 1.6s", ""},
		{"one fails", `"pass","Test":"TestC"`, `"fail","Test":"TestC"`, "second  2        NOT HELD  ca.TestC", "of 2 attacks, 1 did not fail and 0 could not be tried"},
		{"one is skipped", `"pass","Test":"TestScripts/kill"`, `"skip","Test":"TestScripts/kill"`, "NOT TRIED  kill.txtar", "0 did not fail and 1 could not"},
		{"a case is skipped", `"pass","Test":"TestA/two/deep"`, `"skip","Test":"TestA/two/deep"`, "first 1 NOT TRIED ca.TestA second 2 held", "0 did not fail and 1 could not"},
		{"a case is skipped and the test fails", `"pass","Test":"TestA/two/deep"}
{"Action":"pass","Test":"TestA"`, `"skip","Test":"TestA/two/deep"}
{"Action":"fail","Test":"TestA"`, "first 1 NOT HELD ca.TestA", "1 did not fail and 0 could not"},
		{"one doesn't run", `"Test":"FuzzB"`, `"Test":"FuzzX"`, "NOT TRIED  ca/krl.FuzzB", "0 did not fail and 1 could not"},
		{"a case fails", `"pass","Test":"TestA","`, `"fail","Test":"TestA","`, "NOT HELD", "1 did not fail"},
	} {
		t.Run(c.name, func(t *testing.T) {
			results := map[string]*result{}
			if err := read(strings.NewReader(strings.Replace(passed, c.old, c.new, 1)), names, results); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			err := report(&out, sample, results)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v, want %q", err, c.err)
			}
			if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), strings.Join(strings.Fields(c.row), " ")) {
				t.Errorf("%q isn't in\n%s", c.row, out.String())
			}
		})
	}
}
