package cli

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Every test of this package that has a world runs once more with the service
// in front of it, and the commands on the other side of HTTPS.
func TestOverHTTPS(t *testing.T) {
	if overHTTPS() {
		t.Skip("this is it")
	}
	t.Parallel()
	program, err := os.Executable()
	check(t, err)
	cmd := exec.CommandContext(t.Context(), program, "-test.timeout=10m")
	cmd.Env = append(os.Environ(), over+"=https")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}
