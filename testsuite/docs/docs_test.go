// Package docs holds the documentation to the tree: what it names is there.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/modfile"
)

const root = "../.."

// pages are all Markdown files, by path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && name != "." || name == "bin" || name == "dist" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(name, ".md") {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			found[filepath.ToSlash(name)] = string(data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A promise without its test is a wish: every test and script that the threat
// model names exists, in the package it says.
func TestThreatModelNamesWhatIsThere(t *testing.T) {
	text := pages(t)["docs/design/threat-model.md"]
	tests := regexp.MustCompile("`([a-z][a-z0-9/]*)\\.((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(text, -1)
	scripts := regexp.MustCompile("`([a-z0-9-]+)\\.txtar`").FindAllStringSubmatch(text, -1)
	if len(tests) < 40 || len(scripts) < 8 {
		t.Fatalf("found %d tests and %d scripts, which can't be all", len(tests), len(scripts))
	}
	for _, m := range tests {
		if !defines(t, m[1], m[2]) {
			t.Errorf("there is no test %s in %s", m[2], m[1])
		}
	}
	for _, m := range scripts {
		if _, err := os.Stat(filepath.Join(root, "testsuite/testdata/scripts", m[1]+".txtar")); err != nil {
			t.Error(err)
		}
	}
	// Written in another way, a name would escape the check.
	if bare := len(regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAllString(text, -1)); bare != len(tests) {
		t.Errorf("%d tests are named, %d of them as `package.Test`", bare, len(tests))
	}
	for n := 1; n <= 6; n++ {
		if !strings.Contains(text, "\n## "+string(rune('0'+n))+". ") {
			t.Errorf("promise %d is missing", n)
		}
	}
}

// Each line of the changelog under Security names a test, which is there.
func TestChangelogNamesWhatIsThere(t *testing.T) {
	_, text, ok := strings.Cut(pages(t)["CHANGELOG.md"], "\n### Security\n")
	if !ok {
		t.Fatal("there is nothing under Security")
	}
	text, _, _ = strings.Cut(text, "\n## ")
	named := regexp.MustCompile("`([a-z][a-z0-9/]*)\\.((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(text, -1)
	for _, m := range named {
		if !defines(t, m[1], m[2]) {
			t.Errorf("there is no test %s in %s", m[2], m[1])
		}
	}
	// Each line has one, but for what was only said wrongly.
	for _, line := range strings.Split(text, "\n- ")[1:] {
		if !regexp.MustCompile("`[a-z][a-z0-9/]*\\.(?:Test|Fuzz)\\w+`").MatchString(line) && !strings.HasPrefix(line, "`locks` called verified") {
			t.Errorf("it has no test: %s", line)
		}
	}
	// Written in another way, a name would escape the check.
	if bare := len(regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAllString(text, -1)); bare != len(named) || bare == 0 {
		t.Errorf("%d tests are named, %d of them as `package.Test`", bare, len(named))
	}
}

// Each fuzz target begins with inputs that are checked in.
func TestFuzzTargetsHaveInputs(t *testing.T) {
	target := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)
	found := 0
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains([]string{".git", "bin", "dist"}, d.Name()) {
			return filepath.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range target.FindAllStringSubmatch(string(data), -1) {
			found++
			inputs, err := os.ReadDir(filepath.Join(filepath.Dir(path), "testdata/fuzz", m[1]))
			if err != nil || len(inputs) < 2 {
				t.Errorf("%s: %s has %d inputs in testdata/fuzz: %v", path, m[1], len(inputs), err)
			}
		}
		return nil
	})
	if err != nil || found < 50 {
		t.Errorf("found %d targets: %v", found, err)
	}
}

func defines(t *testing.T, pkg, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(data), "\nfunc "+test+"(")
	})
}

var (
	link  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fence = regexp.MustCompile("(?ms)^```.*?^```$")
)

// Links within the repository lead somewhere.
func TestLinks(t *testing.T) {
	all := pages(t)
	if len(all) < 10 {
		t.Fatalf("found %d pages, which can't be all", len(all))
	}
	for page, text := range all {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			to, _, _ := strings.Cut(m[1], "#")
			if to == "" || strings.Contains(to, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page), to)); err != nil {
				t.Errorf("%s: dead link %s", page, m[1])
			}
		}
	}
}

// Each direct dependency of hallpass and of hallpass-kms stands in the decision
// that says why it is there, once in the table of its program, and none stands
// there that isn't one.
func TestDependenciesHaveReasons(t *testing.T) {
	page := pages(t)["docs/decisions/0005-dependencies.md"]
	ours, kms, ok := strings.Cut(page, "(`kms/go.mod`)")
	if !ok {
		t.Fatal("the page doesn't say which table is that of kms/go.mod")
	}
	for file, text := range map[string]string{"go.mod": ours, "kms/go.mod": kms} {
		named, direct := namedModules(text), directModules(t, file)
		if len(direct) < 3 {
			t.Fatalf("%s: found %q, which can't be all", file, direct)
		}
		if diff := cmp.Diff(direct, named); diff != "" {
			t.Errorf("direct dependencies in %s (-) and on the page (+):\n%s", file, diff)
		}
	}
}

// namedModules are the modules in the first column of the tables, sorted. What
// stands in parentheses behind one is below it, and it is one itself.
func namedModules(text string) []string {
	var named []string
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+?) \|`).FindAllStringSubmatch(text, -1) {
		cell := row[1]
		if cell == "module" || strings.HasPrefix(cell, "-") {
			continue
		}
		for _, m := range regexp.MustCompile(`([^\s,()]+)(?: \(([^)]*)\))?`).FindAllStringSubmatch(cell, -1) {
			named = append(named, m[1])
			for _, below := range strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' || r == ' ' }) {
				named = append(named, m[1]+"/"+below)
			}
		}
	}
	slices.Sort(named)
	return named
}

// directModules are the modules that a go.mod requires, but for indirect ones,
// sorted.
func directModules(t *testing.T, file string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse(file, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, r := range mod.Require {
		if !r.Indirect {
			direct = append(direct, r.Mod.Path)
		}
	}
	slices.Sort(direct)
	return direct
}

// Every page has its place in the index.
func TestIndexIsComplete(t *testing.T) {
	all := pages(t)
	for page := range all {
		name, in := strings.CutPrefix(page, "docs/")
		if in && name != "README.md" && !strings.Contains(all["docs/README.md"], "]("+name+")") {
			t.Errorf("docs/README.md doesn't name %s", name)
		}
	}
}
