// Licences lists the modules in programs, with the licences they are under,
// and fails if one isn't known to be fine. It reads bills of materials of
// CycloneDX, as make sbom writes them.
//
//	go run ./testsuite/licences dist/linux-amd64/*.cdx.json
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// fine are the licences that hallpass may be given away with. The tool that
// writes the bill tells texts apart by likeness, so that the BSD and ISC
// licences go by each other's names.
var fine = []string{"Apache-2.0", "MIT", "MPL-2.0", "0BSD", "ISC", "BSD-2-Clause", "BSD-3-Clause", "BSD-Source-Code"}

// read are the licences of modules whose text the tool doesn't find or
// recognize, as somebody has read them.
var read = map[string]string{
	"std": "BSD-3-Clause",
	"github.com/cactus/go-statsd-client/statsd":    "MIT", // in its repository, not in the module
	"github.com/nexus-rpc/nexus-proto-annotations": "MIT", // the same
	"github.com/rcrowley/go-metrics":               "BSD-2-Clause",
	"github.com/tidwall/btree":                     "MIT",
	"github.com/twmb/murmur3":                      "BSD-3-Clause",
}

// bill is what is read of a bill of materials.
type bill struct {
	Format     string `json:"bomFormat"`
	Components []struct {
		Name     string `json:"name"`
		Version  string `json:"version"`
		Evidence struct {
			Licences []struct {
				License struct {
					ID string `json:"id"`
				} `json:"license"`
			} `json:"licenses"`
		} `json:"evidence"`
	} `json:"components"`
}

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, paths []string) error {
	if len(paths) == 0 {
		return errors.New("which bills of materials? make sbom writes them")
	}
	modules := map[string]string{} // "name version" → licences
	var bad []error
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found, err := licences(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		maps.Copy(modules, found)
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, module := range slices.Sorted(maps.Keys(modules)) {
		name, version, _ := strings.Cut(module, " ")
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", name, version, modules[module])
		for _, l := range strings.Split(modules[module], ", ") {
			if !slices.Contains(fine, l) {
				bad = append(bad, fmt.Errorf("%s is under %q, which nobody has said is fine", name, l))
			}
		}
	}
	return errors.Join(append(bad, table.Flush())...)
}

// licences reads one bill: which licences each module is under. A module
// without one is under "".
func licences(data []byte) (map[string]string, error) {
	var b bill
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, err
	}
	if b.Format != "CycloneDX" || len(b.Components) == 0 {
		return nil, errors.New("not a bill of materials of CycloneDX with something in it")
	}
	found := map[string]string{}
	for _, c := range b.Components {
		var ids []string
		for _, l := range c.Evidence.Licences {
			ids = append(ids, l.License.ID)
		}
		if known, ok := read[c.Name]; ok {
			ids = []string{known}
		}
		found[c.Name+" "+c.Version] = strings.Join(ids, ", ")
	}
	return found, nil
}
