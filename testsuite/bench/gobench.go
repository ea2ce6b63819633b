package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rounds is how often the Go benchmarks of a package run: each once, then each
// once more, so that what disturbs the machine meets all of them.
const rounds = 5

// compile makes a program of the tests and benchmarks of a package.
func (b *bench) compile(pkg string) (binary string, err error) {
	binary = filepath.Join(b.dir, filepath.Base(pkg)+".test")
	build := exec.CommandContext(b.ctx, "go", "test", "-c", "-tags", "disable_grpc_modules", "-o", binary, "./"+pkg)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the tests of %s: %w\n%s", pkg, err, out)
	}
	return binary, nil
}

// goBench runs the Go benchmarks that match a pattern, as go test -bench takes
// it, with what other flags there are, and gives for each the medians over the rounds, by its name and unit:
// got["Decide/rules=10"]["ns/op"]; "n" is how often it ran in a round.
func (b *bench) goBench(pkg, pattern string, flags ...string) (got map[string]map[string]float64, err error) {
	binary, err := b.compile(pkg)
	if err != nil {
		return nil, err
	}
	all := map[string]map[string][]float64{}
	once := time.Duration(b.scale * float64(500*time.Millisecond))
	for round := range rounds + 1 {
		these, err := b.goBenchOnce(binary, pkg, pattern, once.String(), flags...)
		if err != nil {
			return nil, err
		}
		if round == 0 {
			continue // to get warm
		}
		for name, figures := range these {
			if all[name] == nil {
				all[name] = map[string][]float64{}
			}
			for unit, v := range figures {
				all[name][unit] = append(all[name][unit], v)
			}
		}
	}
	got = map[string]map[string]float64{}
	for name, figures := range all {
		got[name] = map[string]float64{}
		for unit, values := range figures {
			slices.Sort(values)
			got[name][unit] = values[len(values)/2]
		}
	}
	if len(got) == 0 {
		return nil, fmt.Errorf("%s has no benchmark %s", pkg, pattern)
	}
	return got, nil
}

// goBenchOnce runs the benchmarks of a compiled package once, each for so long or so often
// as go test's -benchtime says.
func (b *bench) goBenchOnce(binary, pkg, pattern, benchtime string, flags ...string) (map[string]map[string]float64, error) {
	cmd := exec.CommandContext(b.ctx, binary, append(flags, "-test.run=^$", "-test.bench="+pattern, "-test.benchtime="+benchtime, "-test.timeout=30m")...)
	cmd.Dir, cmd.Env = pkg, append(os.Environ(), "HALLPASS_BIN="+b.program)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("benchmarks of %s: %w\n%s", pkg, err, out)
	}
	return parseBench(out), nil
}

// parseBench reads what go test -bench prints. Names come without "Benchmark"
// and without the number of processors at their end.
func parseBench(out []byte) map[string]map[string]float64 {
	got := map[string]map[string]float64{}
	for line := range bytes.Lines(out) {
		f := strings.Fields(string(line))
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") || len(f)%2 != 0 {
			continue
		}
		name := strings.TrimPrefix(f[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		figures := map[string]float64{}
		if n, err := strconv.ParseFloat(f[1], 64); err == nil {
			figures["n"] = n
		}
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				figures[f[i+1]] = v
			}
		}
		got[name] = figures
	}
	return got
}

// micro is the row of a Go benchmark that reports what measure.Report does.
func micro(name string, figures map[string]float64) row {
	r := row{Name: name, PerSecond: figures["op/s"], P50: figures["p50-ns"] / 1e9, P99: figures["p99-ns"] / 1e9, N: int(figures["n"]), Also: map[string]float64{}}
	for unit, v := range figures {
		switch unit {
		case "op/s", "p50-ns", "p99-ns", "ns/op", "n":
		default:
			r.Also[unit] = v
		}
	}
	return r
}

func (b *bench) ca() error {
	got, err := b.goBench("ca", "^BenchmarkIssue$")
	if err != nil {
		return err
	}
	for _, key := range []string{"ed25519", "p256", "p384", "p521", "rsa3072", "rsa4096"} {
		for _, what := range []string{"sign", "sign+verify", "issue"} {
			r, signed := micro(key+", "+what, got["Issue/"+key+"/"+what]), got["Issue/"+key+"/sign"]["op/s"]
			switch what {
			case "sign+verify":
				r.Base = key + ", sign"
			case "issue":
				r.Base = key + ", sign+verify"
				if signed > 0 {
					r.Also["of bare signing"] = r.PerSecond / signed
				}
			}
			b.add(r)
		}
	}
	if got, err = b.goBench("ca/krl", "^BenchmarkMarshal$"); err != nil {
		return err
	}
	for _, of := range []string{"10k-scattered", "100k-scattered", "1M-contiguous"} {
		b.add(micro("KRL of "+of+" serials", got["Marshal/"+of]))
	}
	return nil
}

// issuers measures other CAs beside ours: Vault's SSH engine and step-ca, those of
// them that are built.
func (b *bench) issuers() error {
	got, err := b.goBench("testsuite/issuers", "^BenchmarkIssuers$")
	if err != nil {
		return err
	}
	whole, err := b.goBench("grant", "^BenchmarkIssue$")
	if err != nil {
		return err
	}
	for _, key := range []string{"ed25519", "p256"} {
		for _, flight := range []int{1, 16} {
			name := func(who string) string { return fmt.Sprintf("%s, %s, %d in flight", key, who, flight) }
			for _, who := range []string{"vault", "step-ca", "hallpass"} {
				figures, ok := got[fmt.Sprintf("Issuers/%s/%s/flight=%d", key, who, flight)]
				if !ok {
					continue // it isn't built
				}
				label := map[string]string{"vault": "Vault's SSH engine", "step-ca": "step-ca", "hallpass": "hallpass's CA"}[who]
				r := micro(name(label), figures)
				r.Line, r.X = key+", "+label, float64(flight)
				if who != "vault" {
					r.Base = name("Vault's SSH engine")
				}
				b.add(r)
			}
		}
	}
	for _, flight := range []int{1, 16} {
		const issuer = "ed25519, hallpass's issuer: evidence, ledger and certificate"
		r := micro(fmt.Sprintf("%s, %d in flight", issuer, flight), whole[fmt.Sprintf("Issue/flight=%d", flight)])
		r.Line, r.X = issuer, float64(flight)
		r.Base = fmt.Sprintf("ed25519, Vault's SSH engine, %d in flight", flight)
		b.add(r)
	}
	return nil
}

func (b *bench) policy() error {
	got, err := b.goBench("policy", "^BenchmarkDecide$", "-test.cpu=1") // collecting garbage as well
	if err != nil {
		return err
	}
	for _, n := range []int{10, 1000, 10000} {
		r := micro(fmt.Sprintf("%d rules", n), got[fmt.Sprintf("Decide/rules=%d", n)])
		r.Line, r.X = "rules with conditions as people write them", float64(n)
		b.add(r)
	}
	for _, n := range []int{10, 1000} {
		alone := micro(fmt.Sprintf("%d CEL programs alone", n), got[fmt.Sprintf("Decide/cel=%d", n)])
		r := micro(fmt.Sprintf("%d rules, each to be tried", n), got[fmt.Sprintf("Decide/unindexed=%d", n)])
		alone.Line, r.Line = "CEL programs alone", "rules that have to be tried one by one"
		alone.X, r.X, r.Base = float64(n), float64(n), alone.Name
		b.add(alone)
		b.add(r)
	}
	return nil
}

func (b *bench) evidence() error {
	got, err := b.goBench("evidence", "^BenchmarkJudge$")
	if err != nil {
		return err
	}
	for _, n := range []int{1, 3, 10} {
		r := micro(fmt.Sprintf("approvals: %d", n), got[fmt.Sprintf("Judge/approvals=%d", n)])
		r.Line, r.X = "evidence with so many approvals", float64(n)
		b.add(r)
	}
	return nil
}

func (b *bench) audit() error {
	got, err := b.goBench("audit", "^BenchmarkAppend$")
	if err != nil {
		return err
	}
	b.add(micro("the disk, a page and its flush", got["Append/flush"]))
	for _, db := range []struct{ key, name string }{{"sqlite", "SQLite"}, {"postgres", "PostgreSQL"}} {
		base := db.name + ", a transaction each"
		b.add(micro(base, got["Append/"+db.key+"/one-row"]))
		floor := micro(db.name+", rows alone, 64 in a transaction", got["Append/"+db.key+"/rows"])
		floor.Base = base
		b.add(floor)
		for _, n := range []int{1, 16, 64} {
			r := micro(fmt.Sprintf("%s, writers: %d", db.name, n), got[fmt.Sprintf("Append/%s/group/writers=%d", db.key, n)])
			r.Line, r.X, r.Base = db.name, float64(n), base
			if n == 64 {
				r.Also["% of rows alone"] = 100 * r.PerSecond / floor.PerSecond
			}
			b.add(r)
		}
	}
	return nil
}
