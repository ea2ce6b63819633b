package main

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/api/enums/v1"
)

func TestParseBench(t *testing.T) {
	out := `goos: linux
pkg: hallpass/policy
BenchmarkDecide/rules=10-2         	  251378	      4770 ns/op	    209637 op/s	      4540 p50-ns	    2250 B/op
BenchmarkIssue/p256/sign+verify    	     520	   1311289 ns/op
BenchmarkBroken-2
--- BENCH: x
PASS
`
	want := map[string]map[string]float64{
		"Decide/rules=10":        {"n": 251378, "ns/op": 4770, "op/s": 209637, "p50-ns": 4540, "B/op": 2250},
		"Issue/p256/sign+verify": {"n": 520, "ns/op": 1311289},
	}
	if diff := cmp.Diff(want, parseBench([]byte(out))); diff != "" {
		t.Error(diff)
	}
}

func rows() []row {
	rows := []row{
		{Item: "x", Name: "bare", Line: "bare", X: 1, PerSecond: 100, P50: 0.010, P99: 0.020},
		{Item: "x", Name: "ours <1>", Line: "ours", X: 1, PerSecond: 90, P50: 0.011, P99: 2, Base: "bare", Also: map[string]float64{"MiB": 12345}},
		{Item: "x", Name: "ours <64>", Line: "ours", X: 64, PerSecond: 2000, P50: 0.0000123, P99: 2, Base: "gone"},
	}
	compare(rows)
	return rows
}

func TestCompare(t *testing.T) {
	got := rows()
	if got[1].Ratio != 0.9 || got[1].Latency < 1.09 || got[1].Latency > 1.11 {
		t.Errorf("%+v", got[1])
	}
	if got[0].Ratio != 0 || got[2].Ratio != 0 {
		t.Error("there is nothing to compare with")
	}
}

func TestMarkdown(t *testing.T) {
	want := `| what | per second | median | p99 | beside | ratio | latency | also |
|---|---|---|---|---|---|---|---|
| bare | 100 | 10 ms | 20 ms |   |   |   |   |
| ours <1> | 90 | 11 ms | 2 s | bare | 0.90 | 1.10 | 12,345 MiB |
| ours <64> | 2,000 | 12.3 µs | 2 s | gone |   |   |   |
`
	if diff := cmp.Diff(want, markdown(rows())); diff != "" {
		t.Error(diff)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 999.9: "1000", 1234: "1,234", 12345678: "12,345,678", -1234: "-1,234", -0.5: "-0.50",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) is %s, want %s", v, got, want)
		}
	}
}

// The plot is well-formed, whatever the names are, and nothing of it is beside
// the canvas.
func TestPlot(t *testing.T) {
	svg, ok := plot(rows())
	if !ok {
		t.Fatal("nothing to draw")
	}
	var many []row
	for i := range 8 {
		name := strings.Repeat("a long name ", 5) + strconv.Itoa(i)
		many = append(many, row{Name: name, Line: name, X: 1, PerSecond: 1})
	}
	crowded, _ := plot(many)
	var tall float64
	for y := range texts(t, crowded, &tall) {
		if y > tall {
			t.Errorf("a text at %v of %v", y, tall)
		}
	}
	for dec := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Error(svg)
	}
	memory := []row{
		{Name: "a timer", PerSecond: 3},
		{Name: "worker, 10", Line: "worker", X: 10, Also: map[string]float64{"MiB": 20}},
		{Name: "worker, 100", Line: "worker", X: 100, Also: map[string]float64{"MiB": 80}},
	}
	if all, unit := lines(memory); unit != "MiB" || len(all) != 1 || !slices.Equal(all[0].points, []point{{10, 20}, {100, 80}}) {
		t.Errorf("memory is drawn as %v, %s", all, unit)
	}
	if _, ok := plot(rows()[:0]); ok {
		t.Error("drawn without a line")
	}
	if _, ok := plot([]row{{Name: "no line", PerSecond: 1}}); ok {
		t.Error("drawn without a line")
	}
	s := newScale([]float64{30, 4000}, 100, -50)
	if s.at(10) != 100 || s.at(10000) != 50 {
		t.Errorf("%+v: 10 at %v, 10000 at %v", s, s.at(10), s.at(10000))
	}
}

// Each comes first once, and once right before each other one.
func TestInTurn(t *testing.T) {
	all := []string{"a", "b", "c", "d"}
	first, before := map[string]int{}, map[string]int{}
	for turn := 1; turn <= 4; turn++ {
		last := ""
		for i, s := range inTurn(turn, all) {
			if all[i] != s {
				t.Errorf("%q has index %d", s, i)
			}
			if last == "" {
				first[s]++
			}
			before[last+s]++
			last = s
		}
	}
	if diff := cmp.Diff(map[string]int{"a": 1, "b": 1, "c": 1, "d": 1}, first); diff != "" {
		t.Error(diff)
	}
	for _, a := range all {
		for _, b := range all {
			if n := before[a+b]; a != b && n != 1 {
				t.Errorf("%d times %q", n, a+b)
			}
		}
	}
}

func TestAlike(t *testing.T) {
	ways := func(names ...string) map[string]bool {
		m := map[string]bool{}
		for _, n := range names {
			m[n] = true
		}
		return m
	}
	if err := alike(ways("a b", "a b b"), ways("a b")); err != nil {
		t.Error(err)
	}
	if err := alike(ways("a b"), ways("a c")); err == nil {
		t.Error("another flow passes")
	}
}

func TestAsLong(t *testing.T) {
	for same, ok := range map[int]bool{899: false, 900: true, 1000: true, 1100: true, 1101: false} {
		if err := asLong(1000, same); (err == nil) != ok {
			t.Errorf("%d bytes: %v", same, err)
		}
	}
}

// texts yields where the texts of a plot are, from the top, and says how tall it is.
func texts(t *testing.T, svg string, tall *float64) iter.Seq[float64] {
	t.Helper()
	return func(yield func(float64) bool) {
		for dec := xml.NewDecoder(strings.NewReader(svg)); ; {
			token, err := dec.Token()
			if errors.Is(err, io.EOF) {
				return
			} else if err != nil {
				t.Fatal(err)
			}
			e, ok := token.(xml.StartElement)
			if !ok || e.Name.Local != "svg" && e.Name.Local != "text" {
				continue
			}
			for _, a := range e.Attr {
				v, err := strconv.ParseFloat(a.Value, 64)
				switch {
				case err != nil:
				case e.Name.Local == "svg" && a.Name.Local == "height":
					*tall = v
				case e.Name.Local == "text" && a.Name.Local == "y" && !yield(v):
					return
				}
			}
		}
	}
}

func TestDocument(t *testing.T) {
	dir := t.TempDir()
	page, folder := filepath.Join(dir, "page.md"), filepath.Join(dir, "plots")
	before := "# Page\n<!-- bench:x -->\nold $1\n<!-- bench -->\nbetween\n<!-- bench:y -->\nkept\n<!-- bench -->\n"
	if err := os.WriteFile(page, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	r := report{Command: "make bench ONLY=x", Version: "v1", Machine: "a machine", Load: map[string]float64{"x": 0.5}, Rows: rows()}
	for range 2 { // the second time it replaces its own
		if err := document(r, page, folder); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Page\n<!-- bench:x -->\n| what", "(plots/x.svg)", "`make bench ONLY=x`: version v1 on", "load 0.5.\n<!-- bench -->\nbetween", "kept"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q isn't in\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old") {
		t.Error("the old figures are still there")
	}
	if _, err := os.Stat(filepath.Join(folder, "x.svg")); err != nil {
		t.Error(err)
	}
	r.Load = map[string]float64{"z": 1}
	if err := document(r, page, folder); err == nil || !strings.Contains(err.Error(), "no place for z") {
		t.Error(err)
	}
}

// Figures in the documentation name a revision that can measure them again.
func TestRevision(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	put := func(name string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(what, want string) {
		t.Helper()
		rev, err := revision(t.Context(), dir)
		if want == "" && (err != nil || len(rev) < 7) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %q, %v, want %q", what, rev, err, want)
		}
	}
	ask("no repository", "no revision")
	git("init", "--quiet")
	put("README.md")
	git("add", ".")
	git("commit", "--quiet", "-m", "one")
	ask("a revision without", "has no testsuite/bench")
	put("testsuite/bench/main.go")
	ask("not committed", "isn't committed: testsuite/")
	git("add", ".")
	git("commit", "--quiet", "-m", "two")
	ask("committed", "")
	put("docs/performance.md")
	put("docs/performance/x.svg")
	ask("figures that were written before", "")
	if err := os.WriteFile(filepath.Join(dir, "README.md"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ask("changed", "isn't committed: README.md")
}

// Every item has its place in the documentation.
func TestDocumentationHasAllItems(t *testing.T) {
	text, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range items {
		if !strings.Contains(string(text), "<!-- bench:"+i.name+" -->\n") {
			t.Errorf("docs/performance.md has no place for %s", i.name)
		}
	}
}

func TestBadArguments(t *testing.T) {
	for only, want := range map[string]string{"ca,nothing": "there is no nothing; there are ca, issuers, policy"} {
		if err := measureAll(t.Context(), "x", only, 1, t.TempDir(), false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", only, err)
		}
	}
	for _, scale := range []float64{0, -1, 101} {
		if err := measureAll(t.Context(), "x", "ca", scale, t.TempDir(), false); err == nil || !strings.Contains(err.Error(), "-scale") {
			t.Errorf("scale %v: %v", scale, err)
		}
	}
}

// Each step is from the stage before it to the next event of its kind.
func TestAlong(t *testing.T) {
	begin := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	after := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	const started, signalled = enums.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, enums.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
	seen := []sighting{
		{started, after(2), after(3), 1},
		{enums.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, after(2), after(3), 1},
		{ruled, after(10), after(12), 1},
		{signalled, after(15), after(30), 1},
		{ruled, after(22), after(30), 1},
	}
	way := []stage{{"start", started, false}, {"ruling", ruled, false}, {"look", ruled, true}, {"signal", signalled, false}, {"check", ruled, false}}
	took, err := along(way, begin, seen)
	if err != nil {
		t.Fatal(err)
	}
	var ms []int64
	for _, d := range took {
		ms = append(ms, d.Milliseconds())
	}
	if diff := cmp.Diff([]int64{2, 8, 2, 3, 7, 22}, ms); diff != "" {
		t.Error(diff)
	}
	if _, err := along(way, begin, seen[:3]); err == nil || !strings.Contains(err.Error(), "for: signal") {
		t.Error(err)
	}
}

func TestInFlight(t *testing.T) {
	var now, most, runs atomic.Int64
	each, all, err := inFlight(t.Context(), 4, 50, func(context.Context) error {
		runs.Add(1)
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		now.Add(-1)
		return nil
	})
	if err != nil || len(each) != 50 || runs.Load() != 50 || most.Load() > 4 || all <= 0 {
		t.Errorf("%d runs, %d times, %d at once, %v", runs.Load(), len(each), most.Load(), err)
	}
	broken := errors.New("broken")
	runs.Store(0)
	if _, _, err := inFlight(t.Context(), 2, 1000, func(context.Context) error { runs.Add(1); return broken }); !errors.Is(err, broken) || runs.Load() > 4 {
		t.Errorf("%v after %d runs", err, runs.Load())
	}
}

// A flood isn't faster than it says, is counted, and ends when it shall, and when
// nothing can be made to send.
func TestPour(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var s sending
	n := 0
	began := time.Now()
	err := s.pour(ctx, func(context.Context) (func(context.Context) bool, error) {
		n++
		taken := n%2 == 0
		return func(context.Context) bool {
			if s.all.Load() >= 100 { // with several at once, nobody may see the hundredth
				stop()
			}
			return taken
		}, nil
	})
	took := time.Since(began)
	if all, taken := s.all.Load(), s.taken.Load(); err != nil || all < 100 || taken == 0 || taken > all/2+flooders || float64(n) > took.Seconds()*floodRate+1 {
		t.Errorf("%d made, %d sent, %d taken in %s: %v", n, all, taken, took, err)
	}
	broken := errors.New("broken")
	if err := s.pour(t.Context(), func(context.Context) (func(context.Context) bool, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := s.pour(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	now, err := resident(os.Getpid())
	most, perr := peak(os.Getpid())
	if err := errors.Join(err, perr, forget(os.Getpid())); err != nil || now <= 0 || most < now {
		t.Errorf("%v MiB, %v at most: %v", now, most, err)
	}
	if _, err := memory(os.Getpid(), "VmNone"); err == nil || !strings.Contains(err.Error(), "has no VmNone") {
		t.Error(err)
	}
}
