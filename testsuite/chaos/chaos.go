package chaos

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hallpass/testsuite/chaos/check"
	"hallpass/testsuite/process"
)

// words are those of a list as in a directory.
func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// command is a command of hallpass.
func command(ctx context.Context, s *Stack, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.Program, args...)
	cmd.Env = s.Env
	return cmd
}

// Settings are the seed in HALLPASS_CHAOS_SEED, any if there is none, and how
// long faults last, in HALLPASS_CHAOS_MINUTES.
func Settings(t testing.TB) (seed uint64, lasts time.Duration) {
	t.Helper()
	seed, lasts = rand.Uint64N(1_000_000), 30*time.Second
	if text := os.Getenv("HALLPASS_CHAOS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("HALLPASS_CHAOS_SEED: %v", err)
		}
	}
	if text := os.Getenv("HALLPASS_CHAOS_MINUTES"); text != "" {
		minutes, err := strconv.ParseFloat(text, 64)
		if err != nil || minutes <= 0 || minutes > 24*60 {
			t.Fatalf("HALLPASS_CHAOS_MINUTES is %q, not the minutes of at most a day", text)
		}
		lasts = time.Duration(minutes * float64(time.Minute))
	}
	return seed, lasts
}

// planned is the plan in the file of HALLPASS_CHAOS_PLAN, as an earlier run wrote
// it, or that of the Settings; how long faults last in it; and how make chaos is told
// to play it again.
func planned(t testing.TB, scene Scene) (plan []Step, lasts time.Duration, again string) {
	t.Helper()
	path := os.Getenv("HALLPASS_CHAOS_PLAN")
	if path == "" {
		seed, lasts := Settings(t)
		return Plan(seed, lasts, scene), lasts, fmt.Sprintf("SEED=%d MINUTES=%g", seed, lasts.Minutes())
	}
	text, err := os.ReadFile(path)
	if err == nil {
		plan, err = ReadPlan(text, scene)
	}
	if err != nil {
		t.Fatalf("HALLPASS_CHAOS_PLAN: %v", err)
	}
	for _, step := range plan {
		if step.On != "" {
			lasts = step.At + step.Lasts
		}
	}
	return plan, lasts, "PLAN=" + path
}

// digest begins the SHA-256 of something, enough to tell it from others.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:6])
}

// Run plans, plays and checks: every violation fails the test.
func Run(t testing.TB, s *Stack, stop context.CancelFunc) {
	t.Helper()
	plan, lasts, again := planned(t, s.Scene())
	text := WritePlan(plan)
	// Two runs of one seed on different scenes are different plans, and these say so.
	name := fmt.Sprintf("%s, plan %s, scene %s", again, digest(text), digest([]byte(fmt.Sprintf("%+v", s.Scene()))))
	t.Logf("make chaos %s: %s", name, sum(plan))
	keep := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(t.ArtifactDir(), name), data, 0o600); err != nil {
			t.Error(err)
		}
	}
	keep("plan.jsonl", text)
	seen := Play(t, s, plan, stop)
	if n := len(seen.Exports); n > 0 {
		keep("export.jsonl", seen.Exports[n-1])
	}
	keep("sshd.log", []byte(seen.HostLog))
	found, err := check.Check(context.Background(), seen)
	if err != nil {
		t.Fatal(err)
	}
	in := 0
	for _, l := range seen.Logins {
		if l.Worked {
			in++
		}
	}
	t.Logf("%s: %d requests, %d certificates, %d logins of which %d worked, %d locks and unlocks, %d checkpoints: %d violations",
		name, len(seen.Asked), len(seen.Held), len(seen.Logins), in, len(seen.Locked), len(seen.Checkpoints), len(found))
	if s.Vault != nil {
		worked := 0
		for _, l := range seen.Database {
			if l.Worked {
				worked++
			}
		}
		t.Logf("of Vault: %d logins, tried %d times, of which %d worked", len(seen.Opened), len(seen.Database), worked)
		if len(seen.Opened) == 0 || lasts >= time.Minute && (worked == 0 || worked == len(seen.Database)) {
			t.Error("too little happened to show anything of Vault")
		}
	}
	if !CanMoveClocks {
		s.untried = append(s.untried, "no clock is moved: "+unable(t, MoveClock(os.Getpid(), 0)))
	}
	for _, what := range s.untried {
		process.LeftOut(t, what)
	}
	for _, v := range found {
		t.Errorf("%s: %s", name, v)
	}
	// What shows nothing proves nothing.
	if len(seen.Asked) == 0 || len(seen.Held) == 0 || in == 0 || in == len(seen.Logins) || len(seen.Checkpoints) == 0 || lasts >= time.Minute && len(seen.Locked) == 0 {
		t.Error("too little happened to show anything")
	}
}

// sum says how often a plan does what.
func sum(plan []Step) string {
	counts := map[string]int{}
	var order []string
	for _, s := range plan {
		if counts[s.Do]++; counts[s.Do] == 1 {
			order = append(order, s.Do)
		}
	}
	var out []string
	for _, do := range order {
		out = append(out, fmt.Sprintf("%d %s", counts[do], do))
	}
	return strings.Join(out, ", ")
}
