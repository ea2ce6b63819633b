package policy

import (
	"slices"
	"strings"
	"testing"
)

const hostsRules = "\nrules:\n  - {name: all, when: 'true', max_duration: 1h, approvals: none}\n"

func TestEnrollers(t *testing.T) {
	for _, tt := range []struct{ name, text, want, err string }{
		{"none", "", "", ""},
		{"one", "hosts: {enroll: [sre]}", "sre", ""},
		{"two", "hosts: {enroll: [sre, ops]}", "ops sre", ""},
		{"nobody", "hosts: {enroll: []}", "", "enroll"},
		{"nothing", "hosts: {}", "", "enroll"},
		{"misspelt", "hosts: {enrol: [sre]}", "", `unknown field "enrol"`},
		{"no list", "hosts: {enroll: sre}", "", "enroll"},
		{"no mapping", "hosts: [sre]", "", "hosts must be a mapping"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Parse("policy.yaml", []byte(tt.text+hostsRules))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("%v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := p.Enrollers()
			if strings.Join(slices.Sorted(slices.Values(got)), " ") != tt.want {
				t.Errorf("%v, want %q", got, tt.want)
			}
		})
	}
}
