package ca

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/testsuite/process"
	"hallpass/testsuite/sshdtest"
)

// FuzzIssueAgainstOpenSSH has ssh-keygen read certificates with what people and
// policy put into them: what we issue, it reads in the same way, and nothing else.
func FuzzIssueAgainstOpenSSH(f *testing.F) {
	process.Installed(f, "ssh-keygen")
	f.Setenv("TZ", "UTC")
	f.Add("alice", "web-1/deploy", `echo "a b" && uptime`, "10.0.0.0/8", uint64(42), uint32(3600))
	f.Add("a.b-c_d", "db/root", "", "2001:db8::/32", ^uint64(0), uint32(1))
	f.Add("bob", "x/y", "größer <than> 'ever' \\ $HOME", "", uint64(1), uint32(86400))
	f.Add("bob", "x/y,z/y", "two\nlines", "0.0.0.0/0,::/0", uint64(0), uint32(0))
	f.Fuzz(func(t *testing.T, requester, principal, command, source string, serial uint64, seconds uint32) {
		authority, _ := newCA(t, newEd25519(t))
		s := good(t)
		s.Requester, s.Principals, s.Command, s.Serial = requester, []string{principal}, command, serial
		s.NotAfter = s.NotBefore.Add(time.Duration(seconds) * time.Second)
		s.Options.Grace = 30
		if source != "" {
			s.Options.SourceAddress = strings.Split(source, ",")
		}
		p, err := authority.Prepare(s)
		if err != nil {
			return
		}
		cert, err := authority.Issue(p)
		if err != nil {
			t.Fatalf("prepared, and not issued: %v", err)
		}
		var lines []string
		for line := range strings.Lines(run(t, "ssh-keygen", "-L", "-f", sshdtest.WriteCert(t, cert))) {
			lines = append(lines, strings.TrimRight(strings.TrimLeft(line, " "), "\n"))
		}
		want := []string{
			"Type: " + cert.Type() + " user certificate", "Signing CA: ED25519 " + authority.Fingerprint() + " (using ssh-ed25519)",
			fmt.Sprintf("Key ID: %q", "hallpass:"+requestID+":"+requester), fmt.Sprintf("Serial: %d", serial),
			"Valid: from " + time.Unix(int64(cert.ValidAfter), 0).UTC().Format("2006-01-02T15:04:05") + " to " + s.NotAfter.UTC().Format("2006-01-02T15:04:05"),
		}
		for _, w := range want {
			if !slices.Contains(lines, w) {
				t.Errorf("ssh-keygen doesn't read %q but\n%s", w, strings.Join(lines, "\n"))
			}
		}
		// The rest is these blocks, whole and in this order.
		rest := []string{"Principals: ", principal, "Critical Options: "}
		if command != "" {
			rest = append(rest, "force-command "+command)
		}
		if source != "" {
			rest = append(rest, "source-address "+source)
		}
		if command == "" && source == "" {
			rest[2] += "(none)"
		}
		rest = append(rest, "Extensions: ", "grace@hallpass UNKNOWN OPTION: 00000003333073 (len 7)", "permit-pty") // "30s" as a string of SSH's
		if from := slices.Index(lines, "Principals: "); from < 0 || !slices.Equal(lines[from:], rest) {
			t.Errorf("ssh-keygen doesn't read %q but\n%s", rest, strings.Join(lines, "\n"))
		}
	})
}

// FuzzIssueHostAgainstOpenSSH is the same for certificates of hosts.
func FuzzIssueHostAgainstOpenSSH(f *testing.F) {
	process.Installed(f, "ssh-keygen")
	f.Setenv("TZ", "UTC")
	f.Add("ssh/web-1", "web-1,web-1.example.com,10.0.0.7", uint64(42), uint32(3600))
	f.Add("ssh/db_2.example.com", "2001:db8::1", ^uint64(0), uint32(1))
	f.Add("ssh/x", "*.example.com", uint64(1), uint32(30*86400))
	f.Add("db/x", "x,,y", uint64(0), uint32(0))
	f.Add("ssh/a\nb", "a b,A", uint64(1), uint32(60))
	f.Fuzz(func(t *testing.T, resource, names string, serial uint64, seconds uint32) {
		c := hostCA(t)
		p, err := c.PrepareHost(HostSpec{
			Resource: resource, Names: strings.Split(names, ","), PublicKey: hostSubject(t), Serial: serial,
			NotBefore: hostNow, NotAfter: hostNow.Add(time.Duration(seconds) * time.Second),
		})
		if err != nil {
			if access.CodeOf(err) == "" || access.CheckText("error", err.Error(), 1000) != nil {
				t.Errorf("refused without a code, or not in one line: %q", err)
			}
			return
		}
		cert, err := c.Issue(p)
		if err != nil {
			t.Fatalf("prepared, and not issued: %v", err)
		}
		out := run(t, "ssh-keygen", "-L", "-f", sshdtest.WriteCert(t, cert))
		var lines []string
		for line := range strings.Lines(out) {
			lines = append(lines, strings.TrimSpace(line))
		}
		_, name := access.SplitResource(resource)
		want := []string{
			"Type: " + cert.Type() + " host certificate", fmt.Sprintf("Key ID: %q", "hallpass-host:"+name), fmt.Sprintf("Serial: %d", serial),
			"Signing CA: ED25519 " + c.Fingerprint() + " (using ssh-ed25519)",
			"Valid: from " + hostNow.Add(-BackDate).Format("2006-01-02T15:04:05") + " to " + hostNow.Add(time.Duration(seconds)*time.Second).Format("2006-01-02T15:04:05"),
			"Critical Options: (none)", "Extensions: (none)",
		}
		for _, w := range want {
			if !slices.Contains(lines, w) {
				t.Errorf("ssh-keygen doesn't read %q but\n%s", w, out)
			}
		}
		// No more names than these, and in the same order.
		from, to := slices.Index(lines, "Principals:"), slices.Index(lines, "Critical Options: (none)")
		if from < 0 || to < from || !slices.Equal(lines[from+1:to], strings.Split(names, ",")) {
			t.Errorf("of the names %q ssh-keygen reads\n%s", names, out)
		}
	})
}
