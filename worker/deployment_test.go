package worker

import (
	"strings"
	"testing"

	"hallpass/access"
)

func TestVersioning(t *testing.T) {
	for _, tt := range []struct {
		name                       string
		deployment, build, version string
		as                         string // "": no build is told apart
		says                       string // "": no error
	}{
		{"plain", "", "", "v1.2.3", "", ""},
		{"a build alone", "", "blue", "v1.2.3", "", ""},
		{"the version of the program", "hallpass", "", "v1.2.3-4-gabcdef0", "v1.2.3-4-gabcdef0", ""},
		{"a build", "hallpass", "blue", "v1.2.3", "blue", ""},
		{"no version", "hallpass", "", "(devel)", "", "doesn't know its version"},
		{"none at all", "hallpass", "", "", "", "doesn't know its version"},
		{"no version, a build", "hallpass", "blue", "(devel)", "blue", ""},
		{"a version with a quote", "hallpass", "", "v1'", "", "is no build id"},
	} {
		c := &Config{Temporal: Temporal{Deployment: tt.deployment, Build: tt.build}, Version: tt.version}
		o, err := c.versioning()
		if (err == nil) != (tt.says == "") || err != nil && (!strings.Contains(err.Error(), tt.says) || access.CodeOf(err) != access.CodeMalformed) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if o.UseVersioning != (tt.as != "") || o.Version.BuildID != tt.as || o.UseVersioning && o.Version.DeploymentName != tt.deployment {
			t.Errorf("%s: %+v", tt.name, o)
		}
	}
	for _, bad := range []string{"", "a.b", "a:b", "__a", "a b", "-a", strings.Repeat("a", 64)} {
		if checkDeployment(bad) == nil {
			t.Errorf("deployment %q", bad)
		}
	}
	for _, bad := range []string{"", "a:b", "__a", "a b", "-a", "a'", strings.Repeat("a", 129)} {
		if checkBuild(bad) == nil {
			t.Errorf("build %q", bad)
		}
	}
	for _, good := range []string{"v1.2.3+dirty", strings.Repeat("a", 128)} {
		if err := checkBuild(good); err != nil {
			t.Error(err)
		}
	}
	if err := checkDeployment(strings.Repeat("a", 63)); err != nil {
		t.Error(err)
	}
}
