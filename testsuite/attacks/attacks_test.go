package attacks

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// Every attack has tests that are there, in the package it says, and its place
// in the threat model.
func TestAttacks(t *testing.T) {
	names := map[string]bool{}
	promise := 1
	for _, a := range All {
		if names[a.Name] {
			t.Errorf("%s is listed twice", a.Name)
		}
		names[a.Name] = true
		if a.Promise < promise || a.Promise > 6 {
			t.Errorf("%s is out of order, with promise %d", a.Name, a.Promise)
		}
		promise = a.Promise
		if a.What == "" || len(a.Tests) == 0 {
			t.Errorf("%s: nobody says what happens, or tries it", a.Name)
		}
		for _, test := range a.Tests {
			if !exists(t, test) {
				t.Errorf("%s: there is no test %s", a.Name, test)
			}
		}
	}
	for n := range 6 {
		if !slices.ContainsFunc(All, func(a Attack) bool { return a.Promise == n+1 }) {
			t.Errorf("nothing attacks promise %d", n+1)
		}
	}
}

func exists(t *testing.T, test string) bool {
	t.Helper()
	if script := Script(test); script != "" {
		_, err := os.Stat(filepath.Join(root, "testsuite/testdata/scripts", script+".txtar"))
		return err == nil
	}
	i := strings.LastIndexByte(test, '.')
	if i < 0 {
		return false
	}
	files, err := filepath.Glob(filepath.Join(root, test[:i], "*_test.go"))
	must(t, err)
	return slices.ContainsFunc(files, func(file string) bool {
		data, err := os.ReadFile(file)
		must(t, err)
		return strings.Contains(string(data), "\nfunc "+test[i+1:]+"(")
	})
}

// The threat model's table is the one of this package.
func TestThreatModel(t *testing.T) {
	const page = root + "/docs/design/threat-model.md"
	text, err := os.ReadFile(page)
	must(t, err)
	if !strings.Contains(string(text), "<!-- attacks -->\n"+Table()+"<!-- /attacks -->") {
		t.Errorf("the table in %s isn't that of this package; make attack TABLE=1 writes it", page)
	}
}

func TestScript(t *testing.T) {
	if Script("rogue.txtar") != "rogue" || Script("ca.TestPrepare") != "" {
		t.Error(Script("rogue.txtar"), Script("ca.TestPrepare"))
	}
}
