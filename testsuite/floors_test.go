package testsuite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "hallpass"

// floors is the house: a package may import what stands below it and on its
// own floor, never what stands above. A package that isn't here is on the
// floor of its nearest parent.
var floors = map[string]int{
	"access":              0,
	"internal/certfile":   0,
	"internal/newfile":    0,
	"internal/plainjson":  0,
	"internal/postgresql": 0,
	"internal/trusted":    0,
	"internal/wording":    0,
	"internal/yamlfile":   0,
	"statement":           1, "directory": 1, "catalog": 1, "policy": 1, "ca": 1, "notify": 1, "lookup": 1, "sealed": 1, "vault": 1,
	"evidence": 2, "audit": 2, "grant": 2,
	"activities": 3, "transport": 3, "service": 3, "codec": 3,
	"workflows": 4,
	"worker":    5, "cli": 5, "host": 5,
	"cmd":       6,
	"testsuite": 7,
}

// server is the Temporal server, which takes minutes to compile.
const server = "go.temporal.io/server"

// pkg is what go list says of a package.
type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
	ForTest      string
}

// TestFloors holds the imports of every package to the floors, and to what
// each of them promises about what it is free of.
func TestFloors(t *testing.T) {
	t.Parallel()
	pkgs := list(t)
	if len(pkgs) < 15 {
		t.Fatalf("go list found %d packages, which can't be all", len(pkgs))
	}
	for _, v := range violations(pkgs) {
		t.Error(v)
	}
}

// list asks go list about all packages and their test binaries.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", "disable_grpc_modules", "-test", "-json=ImportPath,Imports,TestImports,XTestImports,Deps,ForTest", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs
		}
		if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// violations is the law.
func violations(pkgs []pkg) []string {
	var all []string
	bad := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, p := range pkgs {
		if slices.ContainsFunc(p.Deps, isVaultServer) {
			bad("%s links the Vault server, whose licence doesn't allow it: run the program of testsuite/vault instead", ours(p.ImportPath))
		}
		if testBinary(p) {
			if links(p.Deps, server) {
				bad("the tests of %s link the Temporal server: run bin/hallpass instead", strings.TrimSuffix(p.ImportPath, ".test"))
			}
			continue
		}
		if p.ForTest != "" {
			continue // a package compiled once more for its tests
		}
		name := ours(p.ImportPath)
		floor, ok := floorOf(name)
		if !ok {
			bad("%s has no floor: add it to floors", name)
			continue
		}
		for _, imp := range p.Imports {
			other := ours(imp)
			if other == "" {
				if why := foreign(name, imp); why != "" {
					bad("%s imports %s: %s", name, imp, why)
				}
				continue
			}
			if f, ok := floorOf(other); ok && f > floor {
				bad("%s (floor %d) imports %s (floor %d)", name, floor, other, f)
			}
		}
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			other := ours(imp)
			f, ok := floorOf(other)
			if other == "" || !ok || strings.HasPrefix(other, "testsuite/") {
				continue
			}
			if f > floor {
				bad("tests of %s (floor %d) import %s (floor %d)", name, floor, other, f)
			}
		}
		if floor <= 2 && links(p.Deps, "go.temporal.io") {
			bad("%s depends on Temporal: what decides and issues can be read and tested without it", name)
		}
		if within(name, "host") || within(name, "cmd/hallpass-host") {
			for _, heavy := range []string{"go.temporal.io", "modernc.org", "cel.dev"} {
				if links(p.Deps, heavy) {
					bad("%s depends on %s: hosts get a small program", name, heavy)
				}
			}
			if slices.Contains(p.Deps, module+"/ca") {
				bad("%s depends on ca: no CA belongs on a host", name)
			}
		}
		if links(p.Deps, server) && !within(name, "worker/embedded") && !within(name, "cmd/hallpass-dev") {
			bad("%s links the Temporal server: only worker/embedded and cmd/hallpass-dev may", name)
		}
	}
	return all
}

// foreign says why a package may not import one that isn't ours.
func foreign(name, imp string) string {
	if !strings.Contains(strings.Split(imp, "/")[0], ".") {
		return "" // the standard library
	}
	switch {
	case name == "access" || name == "internal/wording": // which access is made with
		return "the vocabulary imports the standard library alone"
	case name == "workflows" && imp != "go.temporal.io/sdk/workflow" && imp != "go.temporal.io/sdk/temporal":
		return "workflows may use the SDK's workflow and temporal, and nothing else from outside"
	}
	return ""
}

// floorOf is the floor of one of our packages.
func floorOf(name string) (int, bool) {
	for {
		if f, ok := floors[name]; ok {
			return f, true
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return 0, false
		}
		name = name[:i]
	}
}

// ours is the path of one of our packages inside the module, or "".
func ours(path string) string {
	rest, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return ""
	}
	return rest
}

func testBinary(p pkg) bool { return strings.HasSuffix(p.ImportPath, ".test") }

func within(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

func links(deps []string, root string) bool {
	return slices.ContainsFunc(deps, func(d string) bool { return within(d, root) })
}

// isVaultServer says whether a package is of HashiCorp's Vault and not of its
// client.
func isVaultServer(path string) bool {
	const vault = "github.com/hashicorp/vault"
	return within(path, vault) && !within(path, vault+"/api")
}

// TestFloorsViolations shows that the law can be broken, one way a row.
func TestFloorsViolations(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		pkg  pkg
		want []string
	}{
		{"down", pkg{ImportPath: "hallpass/audit", Imports: []string{"hallpass/access", "hallpass/statement", "modernc.org/sqlite", "fmt"}}, nil},
		{"same floor", pkg{ImportPath: "hallpass/audit", Imports: []string{"hallpass/evidence"}}, nil},
		{"up", pkg{ImportPath: "hallpass/policy", Imports: []string{"hallpass/evidence"}},
			[]string{"policy (floor 1) imports evidence (floor 2)"}},
		{"up from below a parent", pkg{ImportPath: "hallpass/ca/krl", Imports: []string{"hallpass/worker/embedded"}},
			[]string{"ca/krl (floor 1) imports worker/embedded (floor 5)"}},
		{"testsuite", pkg{ImportPath: "hallpass/cmd/hallpass", Imports: []string{"hallpass/testsuite/sshdtest"}},
			[]string{"cmd/hallpass (floor 6) imports testsuite/sshdtest (floor 7)"}},
		{"tests may run servers", pkg{ImportPath: "hallpass/ca", XTestImports: []string{"hallpass/testsuite/sshdtest"}, TestImports: []string{"hallpass/testsuite/postgrestest"}}, nil},
		{"tests go down too", pkg{ImportPath: "hallpass/ca", TestImports: []string{"hallpass/worker"}},
			[]string{"tests of ca (floor 1) import worker (floor 5)"}},
		{"no floor", pkg{ImportPath: "hallpass/util"}, []string{"util has no floor: add it to floors"}},
		{"vocabulary", pkg{ImportPath: "hallpass/access", Imports: []string{"github.com/google/uuid", "time"}},
			[]string{"access imports github.com/google/uuid: the vocabulary imports the standard library alone"}},
		{"vocabulary's words", pkg{ImportPath: "hallpass/internal/wording", Imports: []string{"golang.org/x/text/unicode/norm"}},
			[]string{"internal/wording imports golang.org/x/text/unicode/norm: the vocabulary imports the standard library alone"}},
		{"workflows", pkg{ImportPath: "hallpass/workflows", Imports: []string{"go.temporal.io/sdk/workflow", "go.temporal.io/sdk/client"}},
			[]string{"workflows imports go.temporal.io/sdk/client: workflows may use the SDK's workflow and temporal, and nothing else from outside"}},
		{"temporal in the issuer", pkg{ImportPath: "hallpass/grant", Deps: []string{"go.temporal.io/sdk/temporal"}},
			[]string{"grant depends on Temporal: what decides and issues can be read and tested without it"}},
		{"server", pkg{ImportPath: "hallpass/cli", Deps: []string{"go.temporal.io/server/temporal"}},
			[]string{"cli links the Temporal server: only worker/embedded and cmd/hallpass-dev may"}},
		{"server in the program that people run", pkg{ImportPath: "hallpass/cmd/hallpass", Deps: []string{"go.temporal.io/server/temporal"}},
			[]string{"cmd/hallpass links the Temporal server: only worker/embedded and cmd/hallpass-dev may"}},
		{"Vault's client", pkg{ImportPath: "hallpass/grant", Deps: []string{"github.com/hashicorp/vault/api", "github.com/hashicorp/vault/api/auth/approle"}}, nil},
		{"Vault's server", pkg{ImportPath: "hallpass/testsuite/vaulttest", Deps: []string{"github.com/hashicorp/vault/vault"}},
			[]string{"testsuite/vaulttest links the Vault server, whose licence doesn't allow it: run the program of testsuite/vault instead"}},
		{"server in a test", pkg{ImportPath: "hallpass/cli.test", Deps: []string{"go.temporal.io/server/temporal"}},
			[]string{"the tests of hallpass/cli link the Temporal server: run bin/hallpass instead"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, violations([]pkg{tc.pkg})); diff != "" {
				t.Error(diff)
			}
		})
	}
}
