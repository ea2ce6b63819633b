// Run carries out the known attacks and prints a table of what held.
//
//	go run ./testsuite/attacks/run
//
// HALLPASS_BIN is the program that the attacks on the whole stack are made on.
// It ends with 1 if an attack didn't fail, or could not be tried. With -table
// it writes the table in docs/design/threat-model.md instead.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"hallpass/testsuite/attacks"
)

func main() {
	table := flag.Bool("table", false, "write the table in docs/design/threat-model.md")
	only := flag.String("only", "", "attacks whose name matches this `regexp`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *table {
		err = document("docs/design/threat-model.md")
	} else {
		err = carryOut(ctx, *only, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
}

// result is what came of one test.
type result struct {
	action  string // pass, fail or skip; "" if it didn't run
	cases   int    // subtests that passed
	skipped int    // subtests that were skipped: go test says pass of the test all the same
	took    float64
	said    []string // the last lines, where it didn't pass
}

func carryOut(ctx context.Context, only string, out io.Writer) error {
	match, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	chosen := slices.DeleteFunc(slices.Clone(attacks.All), func(a attacks.Attack) bool { return !match.MatchString(a.Name) })
	if len(chosen) == 0 {
		return fmt.Errorf("no attack is named like %s", only)
	}
	results := map[string]*result{}
	runs := plan(chosen)
	for i, r := range runs {
		fmt.Fprintf(os.Stderr, "%d of %d: %s\n", i+1, len(runs), r.pkg)
		if err := r.test(ctx, results); err != nil {
			return err
		}
	}
	return report(out, chosen, results)
}

// run is one go test.
type run struct {
	pkg, pattern string
	names        map[string]string // by what go test calls a test: what attacks call it
}

// plan is what has to be run: the tests of each package together.
func plan(chosen []attacks.Attack) []run {
	// Scripts that need Vault are another test's.
	tests, scripts := map[string]map[string]string{}, map[string]map[string]string{}
	for _, a := range chosen {
		for _, t := range a.Tests {
			if script := attacks.Script(t); script != "" {
				of := "TestScripts"
				if strings.HasPrefix(script, "vault-") {
					of = "TestVaultScripts"
				}
				if scripts[of] == nil {
					scripts[of] = map[string]string{}
				}
				scripts[of][script] = t
				continue
			}
			i := strings.LastIndexByte(t, '.')
			if tests[t[:i]] == nil {
				tests[t[:i]] = map[string]string{}
			}
			tests[t[:i]][t[i+1:]] = t
		}
	}
	var runs []run
	for _, pkg := range slices.Sorted(maps.Keys(tests)) {
		runs = append(runs, run{"./" + pkg, "^(" + strings.Join(slices.Sorted(maps.Keys(tests[pkg])), "|") + ")$", tests[pkg]})
	}
	for _, of := range slices.Sorted(maps.Keys(scripts)) {
		r := run{"./testsuite", "^" + of + "$/^(" + strings.Join(slices.Sorted(maps.Keys(scripts[of])), "|") + ")$", map[string]string{}}
		for script, name := range scripts[of] {
			r.names[of+"/"+script] = name
		}
		runs = append(runs, r)
	}
	return runs
}

// test runs it and adds what came of each test.
func (r run) test(ctx context.Context, results map[string]*result) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-json", "-timeout", "20m", "-run", r.pattern, ".")
	cmd.Dir = r.pkg // which may be a module of its own
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := read(pipe, r.names, results); err != nil {
		return errors.Join(err, cmd.Wait())
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) { // a failed test is a result
		return err
	}
	return ctx.Err()
}

// read reads what go test -json says.
func read(from io.Reader, names map[string]string, results map[string]*result) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct {
			Action, Test, Output string
			Elapsed              float64
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue // what the compiler says
		}
		name, own := names[e.Test], true
		for test := e.Test; name == "" && strings.Contains(test, "/"); {
			test = test[:strings.LastIndexByte(test, '/')]
			name, own = names[test], false
		}
		if name == "" {
			continue
		}
		got := results[name]
		if got == nil {
			got = &result{}
			results[name] = got
		}
		switch {
		case e.Action == "output":
			if text := strings.TrimSpace(e.Output); text != "" && !strings.HasPrefix(text, "===") {
				got.said = append(got.said[max(0, len(got.said)-20):], text)
			}
		case own && slices.Contains([]string{"pass", "fail", "skip"}, e.Action):
			got.action, got.took = e.Action, e.Elapsed
		case e.Action == "pass":
			got.cases++
		case e.Action == "skip":
			got.skipped++
		}
	}
	return lines.Err()
}

// report prints the table, and what was said where something isn't as it
// should be.
func report(out io.Writer, chosen []attacks.Attack, results map[string]*result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "attack\tpromise\t\tevidence\t") // Flush has the error
	broken, untried := 0, 0
	var details strings.Builder
	for _, a := range chosen {
		held, cases, took := "held", 0, 0.0
		var missing []string
		for _, t := range a.Tests {
			got := results[t]
			switch {
			case got != nil && got.action == "pass" && got.skipped == 0:
				cases, took = cases+1+got.cases, took+got.took
				continue
			case got != nil && got.action == "fail":
				held = "NOT HELD"
			case held == "held":
				held = "NOT TRIED"
			}
			missing = append(missing, t)
			if got != nil {
				fmt.Fprintf(&details, "\n%s\n  %s\n", t, strings.Join(got.said, "\n  "))
			} else {
				fmt.Fprintf(&details, "\n%s did not run\n", t)
			}
		}
		evidence := fmt.Sprintf("%d tests, %d cases, %s", len(a.Tests), cases, time.Duration(took*float64(time.Second)).Round(10*time.Millisecond))
		switch held {
		case "NOT HELD":
			broken++
		case "NOT TRIED":
			untried++
		}
		if len(missing) > 0 {
			evidence = strings.Join(missing, " ")
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%s\t%s\t\n", a.Name, a.Promise, held, evidence)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if broken+untried > 0 {
		_, _ = fmt.Fprint(out, details.String()) // the error says that not all is well
		hint := ""
		if untried > 0 && os.Geteuid() != 0 {
			hint = "; run it as root, some take that"
		}
		return fmt.Errorf("of %d attacks, %d did not fail and %d could not be tried%s", len(chosen), broken, untried, hint)
	}
	_, err := fmt.Fprintf(out, "\n%d attacks, all held.\n", len(chosen))
	return err
}

// document writes the table between its marks.
func document(page string) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	marks := regexp.MustCompile(`(?s)<!-- attacks -->\n.*?<!-- /attacks -->`)
	if !marks.Match(text) {
		return fmt.Errorf("%s has no place for the attacks", page)
	}
	return os.WriteFile(page, marks.ReplaceAllLiteral(text, []byte("<!-- attacks -->\n"+attacks.Table()+"<!-- /attacks -->")), 0o644)
}
