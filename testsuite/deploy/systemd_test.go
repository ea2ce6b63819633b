package deploy

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hallpass/worker"
)

const units = root + "/deploy/systemd"

// A unit's exposure, as systemd-analyze sees it: tenths, from 0 (none) to 100.
// TestUnitsInDocs has docs/operate.md and docs/hosts.md name the same.
const (
	workerExposure = 12
	kmsExposure    = 14
	hostExposure   = 66
)

// TestUnits has systemd read the units and judge how much they leave open.
func TestUnits(t *testing.T) {
	systemd, err := exec.LookPath("systemd-analyze")
	if errors.Is(err, exec.ErrNotFound) && testing.Short() {
		t.Skip("systemd-analyze is not installed")
	} else if err != nil {
		t.Fatal("systemd-analyze is not installed; on Debian: apt-get install systemd")
	}
	paths, err := filepath.Glob(units + "/*.service")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no units in %s: %v", units, err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			out, _ := exec.Command(systemd, "verify", path).CombinedOutput()
			for line := range strings.Lines(string(out)) {
				// The programs aren't installed here, nor are all units that they come after.
				if !strings.Contains(line, "is not executable") && strings.Contains(line, "hallpass") {
					t.Errorf("systemd-analyze verify: %s", line)
				}
			}
			threshold := hostExposure
			if strings.HasPrefix(filepath.Base(path), "hallpass-worker-") {
				threshold = workerExposure
			} else if strings.HasPrefix(filepath.Base(path), "hallpass-kms") {
				threshold = kmsExposure
			}
			out, err := exec.Command(systemd, "security", "--offline=yes", "--no-pager", "--threshold="+strconv.Itoa(threshold), path).CombinedOutput()
			if err != nil {
				t.Errorf("more than %d is exposed: %v\n%s", threshold, err, out)
			}
		})
	}
}

// TestUnitsInDocs: what the docs say that systemd-analyze says is what it says.
func TestUnitsInDocs(t *testing.T) {
	figure := func(exposure int) string { return fmt.Sprintf("%d.%d", exposure/10, exposure%10) }
	for doc, want := range map[string]string{
		"operate.md": "calls " + figure(workerExposure) + ", of 10, and the same of `hallpass-kms.service` " + figure(kmsExposure) + ".",
		"hosts.md":   "`systemd-analyze security --offline=yes` calls " + figure(hostExposure) + ", of 10;",
	} {
		text, err := os.ReadFile(filepath.Join(root, "docs", doc))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), want) {
			t.Errorf("%s doesn't say: %s", doc, want)
		}
	}
}

// TestUnitsOfRoles has one unit for each role, and nobody else's user in it.
func TestUnitsOfRoles(t *testing.T) {
	command := regexp.MustCompile(`(?m)^ExecStart=(?:/usr/local/bin|/opt/hallpass/%i)/hallpass worker --role (\S+)$`)
	user := regexp.MustCompile(`(?m)^User=(\S+)$`)
	paths, err := filepath.Glob(units + "/hallpass-worker-*.service")
	if err != nil {
		t.Fatal(err)
	}
	var roles []string
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c, u := command.FindSubmatch(data), user.FindSubmatch(data)
		if c == nil || u == nil {
			t.Errorf("%s: no command or no user", path)
			continue
		}
		name, builds := strings.CutSuffix(strings.TrimSuffix(filepath.Base(path), ".service"), "@")
		if builds != strings.Contains(string(data), "/opt/hallpass/%i/hallpass") || builds != strings.Contains(string(data), "\nEnvironment=HALLPASS_TEMPORAL_BUILD=%i\n") {
			t.Errorf("%s: each build is a program of its own, by its name", path)
		}
		if !builds {
			roles = append(roles, string(c[1]))
		}
		if want := "hallpass-" + strings.ReplaceAll(string(c[1]), ":", "-"); string(u[1]) != want || name != "hallpass-worker-"+strings.TrimPrefix(want, "hallpass-") {
			t.Errorf("%s runs %s as %s", path, c[1], u[1])
		}
	}
	slices.Sort(roles)
	want := []string{worker.RoleIssuerSSH, worker.RoleIssuerVault, worker.RoleService, worker.RoleWorkflows}
	if !slices.Equal(roles, want) {
		t.Errorf("units run the roles %v, want %v", roles, want)
	}
}

// TestUsersAreMade: sysusers.conf has everybody whom a unit runs as or gives
// something to, and nobody else, in words that systemd takes.
func TestUsersAreMade(t *testing.T) {
	var want, got []string
	paths, err := filepath.Glob(units + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil { // no folder
			for _, m := range regexp.MustCompile(`(?m)^(?:Socket)?User=(\S+)$`).FindAllStringSubmatch(string(data), -1) {
				want = append(want, m[1])
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^u (\S+) +- ".+"$`).FindAllStringSubmatch(read(t, "deploy/systemd/sysusers.conf"), -1) {
		got = append(got, m[1])
	}
	slices.Sort(want)
	slices.Sort(got)
	if want = slices.Compact(want); len(want) < 5 || !slices.Equal(got, want) {
		t.Errorf("sysusers.conf makes %q, want %q", got, want)
	}
	systemd, err := exec.LookPath("systemd-sysusers")
	if errors.Is(err, exec.ErrNotFound) && testing.Short() {
		t.Skip("systemd-sysusers is not installed")
	} else if err != nil {
		t.Fatal("systemd-sysusers is not installed; on Debian: apt-get install systemd")
	}
	path, err := filepath.Abs(units + "/sysusers.conf")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(systemd, "--dry-run", path).CombinedOutput(); err != nil || strings.Contains(string(out), "not a valid") {
		t.Errorf("systemd-sysusers: %v\n%s", err, out)
	}
}

// TestUnitsAnswerApart: each worker says how it is at a port of its own, on
// loopback, so that one hallpass.yaml serves them all. Where there are builds,
// each has to be given one.
func TestUnitsAnswerApart(t *testing.T) {
	address := regexp.MustCompile(`(?m)^Environment=HALLPASS_HEALTH_ADDRESS=(127\.0\.0\.1:\d+)$`)
	paths, err := filepath.Glob(units + "/hallpass-worker-*.service")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no units: %v", err)
	}
	taken := map[string]string{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, "@.service") {
			if !strings.Contains(string(data), "\nEnvironmentFile=/opt/hallpass/%i/env\n") {
				t.Errorf("%s has no place for its address, or starts without one", path)
			}
			continue
		}
		found := address.FindAllSubmatch(data, -1)
		if len(found) != 1 {
			t.Errorf("%s has %d addresses on loopback", path, len(found))
			continue
		}
		at := string(found[0][1])
		if taken[at] != "" {
			t.Errorf("%s and %s are both at %s", taken[at], path, at)
		}
		taken[at] = path
		if !strings.Contains(read(t, "docs/operate.md"), "`"+at[strings.Index(at, ":")+1:]+"`") {
			t.Errorf("docs/operate.md doesn't name %s of %s", at, path)
		}
	}
}

// TestUnitsLeaveSettingsOpen: what stands in a unit's environment wins over
// hallpass.yaml, so where the issuers' keys and the service's certificates are
// doesn't stand there; and the TEMPORAL_* settings have a place.
func TestUnitsLeaveSettingsOpen(t *testing.T) {
	setting := regexp.MustCompile(`(?m)^Environment=.*HALLPASS_(ISSUERS|SERVICE)_`)
	paths, err := filepath.Glob(units + "/hallpass-worker-*")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no units: %v", err)
	}
	shared := filepath.Join(units, "hallpass-worker-.service.d", "worker.conf")
	for _, path := range append(slices.DeleteFunc(paths, func(p string) bool { return filepath.Ext(p) == ".d" }), shared) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if line := setting.Find(data); line != nil {
			t.Errorf("%s decides for hallpass.yaml: %s", path, line)
		}
		if path == shared && !strings.Contains(string(data), "\nEnvironmentFile=-/etc/hallpass/%p/env\n") {
			t.Errorf("%s has no place for TEMPORAL_*", path)
		}
	}
}
