// Bench measures hallpass beside what it can't be faster than, in the same run
// on the same machine: the CA beside bare signatures, the audit log beside one
// transaction for each event, a request beside a bare Temporal workflow with
// as many activities.
//
//	go run ./testsuite/bench -hallpass bin/hallpass -only policy,ca -scale 0.1
//
// It prints a table, and writes bench.json and one SVG plot for each item into
// the folder -o. With -docs it writes the figures into docs/performance.md and
// the plots beside it.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// items are what can be measured, in the order in which it is.
var items = []struct {
	name, title string
	run         func(*bench) error
}{
	{"ca", "Certificates and revocation lists", (*bench).ca},
	{"issuers", "The same certificate from other CAs", (*bench).issuers},
	{"policy", "Policy decisions", (*bench).policy},
	{"evidence", "The check of the evidence", (*bench).evidence},
	{"audit", "Audit events made durable", (*bench).audit},
	{"verify", "Verifying and proving", (*bench).verify},
	{"request", "From the request to the certificate", (*bench).request},
	{"postgres", "From the request to the certificate, on PostgreSQL", (*bench).postgres},
	{"steps", "One request, step by step", (*bench).steps},
	{"postgres-steps", "One request on PostgreSQL, step by step", (*bench).postgresSteps},
	{"parts", "Where the processor's time goes", (*bench).parts},
	{"life", "Whole lives of requests", (*bench).life},
	{"start", "Starting, and commands as processes", (*bench).start},
	{"revoke", "From the revocation to the closed session", (*bench).revoke},
	{"flood", "A revocation under a flood", (*bench).flood},
	{"grants", "Running grants", (*bench).grants},
}

// bench is one run.
type bench struct {
	ctx     context.Context
	program string  // bin/hallpass
	scale   float64 // 1: as many repetitions as figures for the documentation need
	dir     string  // what is made goes in here, and is removed at the end
	rows    []row
}

// row is one figure of the table.
type row struct {
	Item string `json:"item"`
	Name string `json:"name"`

	// Line and X place the row in the item's plot: a line for each Line, with X
	// from left to right. A row without a Line is not in the plot.
	Line string  `json:"line,omitempty"`
	X    float64 `json:"x,omitempty"`

	PerSecond float64 `json:"per_second,omitempty"`
	P50       float64 `json:"p50_seconds,omitempty"`
	P99       float64 `json:"p99_seconds,omitempty"`
	N         int     `json:"n,omitempty"` // repetitions that the figures are of

	// Base is the row that this one is compared with, by its name in the same
	// item. Ratio is per second of this one over that one's, Latency the same of
	// the medians: 1 is as fast, a higher Ratio and a lower Latency is faster.
	Base    string  `json:"base,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
	Latency float64 `json:"latency_ratio,omitempty"`

	// Also are other figures, each with its unit in its name.
	Also map[string]float64 `json:"also,omitempty"`
}

// report is what is written as JSON.
type report struct {
	When    time.Time          `json:"when"`
	Command string             `json:"command"`
	Version string             `json:"version"`
	Machine string             `json:"machine"`
	Load    map[string]float64 `json:"load"` // average over a minute when each item began
	Rows    []row              `json:"rows"`
}

func main() {
	program := flag.String("hallpass", "bin/hallpass", "the program, with hallpass-dev and hallpass-host beside it")
	only := flag.String("only", "", "measure these alone: "+names())
	scale := flag.Float64("scale", 1, "repeat so much more or less often, and make what is large so much larger")
	out := flag.String("o", "bin/bench", "folder to write bench.json and the plots to")
	docs := flag.Bool("docs", false, "write the figures into docs/performance.md and its plots")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if flag.Arg(0) == bareWorker {
		err = serveBareOnly(ctx, flag.Arg(1), flag.Arg(2), flag.Arg(3), flag.Args()[4:]...)
	} else {
		err = measureAll(ctx, *program, *only, *scale, *out, *docs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func names() string {
	var all []string
	for _, i := range items {
		all = append(all, i.name)
	}
	return strings.Join(all, ", ")
}

func measureAll(ctx context.Context, program, only string, scale float64, out string, docs bool) (err error) {
	chosen := map[string]bool{}
	for _, name := range strings.FieldsFunc(only, func(r rune) bool { return r == ',' || r == ' ' }) {
		chosen[name] = true
	}
	unknown := maps.Clone(chosen)
	for _, i := range items {
		delete(unknown, i.name)
	}
	if len(unknown) > 0 {
		return fmt.Errorf("there is no %s; there are %s", slices.Sorted(maps.Keys(unknown))[0], names())
	}
	if scale <= 0 || scale > 100 {
		return fmt.Errorf("-scale is %v, not between 0 and 100", scale)
	}
	b := &bench{ctx: ctx, scale: scale}
	if b.program, err = filepath.Abs(program); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "hallpass-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()

	r := report{When: time.Now().UTC().Truncate(time.Second), Command: command(only, scale), Machine: machine(), Load: map[string]float64{}}
	if docs {
		r.Version, err = revision(ctx, ".")
	} else {
		r.Version = strings.TrimSpace(output(ctx, "git", "describe", "--tags", "--always", "--dirty"))
	}
	if err != nil {
		return err
	}
	fmt.Printf("%s\n%s, %s\n", r.Machine, r.Command, r.Version)
	for _, i := range items {
		if len(chosen) > 0 && !chosen[i.name] {
			continue
		}
		r.Load[i.name] = load()
		fmt.Printf("\n%s (%s), load %.1f\n", i.title, i.name, r.Load[i.name])
		before := len(b.rows)
		err := i.run(b)
		for k := range b.rows[before:] {
			b.rows[before+k].Item = i.name
		}
		compare(b.rows[before:])
		table(os.Stdout, b.rows[before:])
		if err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
	}
	r.Rows = b.rows
	return write(r, out, docs)
}

// compare fills in how each row does beside its base.
func compare(rows []row) {
	for i := range rows {
		r := &rows[i]
		k := slices.IndexFunc(rows, func(o row) bool { return r.Base != "" && o.Name == r.Base })
		if k < 0 {
			continue
		}
		if base := rows[k]; base.PerSecond > 0 && r.PerSecond > 0 {
			r.Ratio = r.PerSecond / base.PerSecond
		}
		if base := rows[k]; base.P50 > 0 && r.P50 > 0 {
			r.Latency = r.P50 / base.P50
		}
	}
}

// times is how often something is repeated that n times would be at scale 1,
// at least twice.
func (b *bench) times(n int) int { return max(2, int(b.scale*float64(n))) }

func (b *bench) add(r row) { b.rows = append(b.rows, r) }

// command is how to measure the same again.
func command(only string, scale float64) string {
	s := "make bench"
	if only != "" {
		s += " ONLY=" + only
	}
	if scale != 1 {
		s += " SCALE=" + strconv.FormatFloat(scale, 'g', -1, 64)
	}
	return s
}

// machine is what the figures depend on.
func machine() string {
	model := runtime.GOARCH
	data, _ := os.ReadFile("/proc/cpuinfo") // not there but on Linux
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	cores := fmt.Sprintf("%d cores", runtime.NumCPU())
	if runtime.NumCPU() == 1 {
		cores = "1 core"
	}
	return fmt.Sprintf("%s of %s, %s, %s", cores, model, runtime.GOOS, runtime.Version())
}

// load is how many processes have wanted to run over the last minute, 0 where
// nobody says.
func load() float64 {
	data, _ := os.ReadFile("/proc/loadavg")
	v, _ := strconv.ParseFloat(cmp.Or(strings.Fields(string(data) + " 0")[0], "0"), 64)
	return v
}

// output is what a program prints, "" if it fails.
func output(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// revision names what is measured, so that anybody can measure it again: what is
// checked out in dir, if it has these measurements and nothing but the figures
// themselves has changed.
func revision(ctx context.Context, dir string) (string, error) {
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	name, err := git("describe", "--tags", "--always")
	if err != nil || name == "" {
		return "", errors.New("-docs: there is no revision to name: this is no git repository with a commit")
	}
	changed, err := git("status", "--porcelain", "--", ":/", ":(exclude,top)docs/performance.md", ":(exclude,top)docs/performance")
	if err != nil {
		return "", fmt.Errorf("-docs: git status: %w", err)
	}
	if first, _, _ := strings.Cut(changed, "\n"); first != "" {
		words := strings.Fields(first)
		return "", fmt.Errorf("-docs: the figures would name revision %s, and this isn't committed: %s", name, words[len(words)-1])
	}
	if _, err := git("cat-file", "-e", "HEAD:testsuite/bench"); err != nil {
		return "", fmt.Errorf("-docs: revision %s has no testsuite/bench", name)
	}
	return name, nil
}

func write(r report, out string, docs bool) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(out, "bench.json")
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		return err
	}
	if err := plots(r, out); err != nil {
		return err
	}
	fmt.Printf("\n%s and plots beside it\n", file)
	if !docs {
		return nil
	}
	return document(r, "docs/performance.md", "docs/performance")
}
