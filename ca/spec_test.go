package ca

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

// The example in the specification is a real certificate that says what the
// text beside it says.
func TestSpecification(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "docs", "spec", "certificate.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(doc), "```\n")
	if len(blocks) < 6 {
		t.Fatalf("%d code blocks", len(blocks)/2)
	}
	line, shown, authority := strings.TrimSpace(blocks[1]), blocks[3], blocks[5]
	cert, _ := parse(t, line)
	if Marshal(cert) != line {
		t.Error("the example isn't in the form that Marshal writes")
	}
	caKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(authority))
	if err != nil {
		t.Fatal(err)
	}
	if ssh.FingerprintSHA256(caKey) != ssh.FingerprintSHA256(cert.SignatureKey) {
		t.Error("the example is by another CA")
	}
	checker := ssh.CertChecker{
		SupportedCriticalOptions: []string{forceCommand, sourceAddress},
		Clock:                    func() time.Time { return noon },
	}
	if err := checker.CheckCert("web-1/deploy", cert); err != nil {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "cert.pub")
	if err := os.WriteFile(path, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TZ", "UTC")
	_, got, _ := strings.Cut(run(t, "ssh-keygen", "-L", "-f", path), "\n")
	if diff := cmp.Diff(strings.Fields(shown), strings.Fields(got)); diff != "" {
		t.Errorf("ssh-keygen -L (-specification +shown):\n%s", diff)
	}
}
