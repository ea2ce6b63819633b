package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	component := func(name, id string) string {
		evidence := ""
		if id != "" {
			evidence = `,"evidence":{"licenses":[{"license":{"id":"` + id + `"}}]}`
		}
		return `{"name":"` + name + `","version":"v1.0.0"` + evidence + `}`
	}
	bill := func(components ...string) string {
		return `{"bomFormat":"CycloneDX","components":[` + strings.Join(components, ",") + `]}`
	}
	for _, tt := range []struct{ name, bill, out, err string }{
		{"fine", bill(component("b.example/x", "MIT"), component("a.example/x", "Apache-2.0")), "a.example/x  v1.0.0  Apache-2.0\nb.example/x  v1.0.0  MIT\n", ""},
		{"not fine", bill(component("a.example/x", "BUSL-1.1")), "a.example/x", `a.example/x is under "BUSL-1.1"`},
		{"none found", bill(component("a.example/x", "")), "a.example/x", `a.example/x is under ""`},
		{"read by somebody", bill(component("std", "")), "std  v1.0.0  BSD-3-Clause\n", ""},
		{"nothing in it", bill(), "", "not a bill of materials"},
		{"another format", `{"spdxVersion":"SPDX-2.3"}`, "", "not a bill of materials"},
		{"no JSON", `<bom>`, "", "invalid character"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bill.json")
			if err := os.WriteFile(path, []byte(tt.bill), 0o600); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			err := run(&out, []string{path})
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if !strings.HasPrefix(out.String(), tt.out) {
				t.Errorf("out %q, want %q", out.String(), tt.out)
			}
		})
	}
	if err := run(&strings.Builder{}, nil); err == nil {
		t.Error("no bills, no error")
	}
}
