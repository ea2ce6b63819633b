package krl

import (
	"crypto/rand"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"hallpass/testsuite/sshdtest"
)

// BenchmarkLogin is what a list costs a login with a certificate that isn't on
// it: how often a real sshd opens the file for one, times the processor time that
// OpenSSH takes to read it once (ssh-keygen -Q, which does it as sshd does), the
// least of all rounds. So it comes out the same on a machine that has other
// things to do.
func BenchmarkLogin(b *testing.B) {
	ca, user := newSigner(b), sshdtest.User(b)
	keyFile, key := sshdtest.NewKey(b)
	cert := &ssh.Certificate{
		Key: key, Serial: 1 << 40, CertType: ssh.UserCert, KeyId: "bench", ValidPrincipals: []string{"web-1/" + user}, ValidBefore: ssh.CertTimeInfinity,
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		b.Fatal(err)
	}
	certFile, file := sshdtest.WriteCert(b, cert), filepath.Join(b.TempDir(), "krl")
	write := func(ranges []Range) {
		l := &List{Version: 1, Generated: time.Unix(1, 0), CAs: []CA{{Key: ca.PublicKey(), Ranges: ranges}}}
		data, err := l.Marshal()
		if err == nil {
			err = os.WriteFile(file, data, 0o600)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	write(nil)
	server := sshdtest.Start(b, sshdtest.Config{
		CA: []ssh.PublicKey{ca.PublicKey()}, Principals: map[string][]string{user: {"web-1/" + user}}, Lines: []string{"RevokedKeys " + file},
	})
	opened := opens(b, file)
	if r := server.Login(b, keyFile, certFile, "true"); !r.OK() {
		b.Fatal(r)
	}
	reads := opened()
	lists := []struct {
		name   string
		ranges []Range
		least  time.Duration
	}{
		{name: "none"},
		{name: "10", ranges: Join(every(100, 1, 1_000)...)},
		{name: "1k", ranges: Join(every(100, 1, 100_000)...)},
		{name: "3k", ranges: Join(every(100, 1, 300_000)...)},
		{name: "10k", ranges: Join(every(100, 1, 1_000_000)...)},
		{name: "10k-dense", ranges: Join(every(5, 1, 50_000)...)},
		{name: "100k", ranges: Join(every(100, 1, 10_000_000)...)},
		{name: "100k-dense", ranges: Join(every(5, 1, 500_000)...)},
		{name: "1M-in-a-row", ranges: []Range{{1, 1_000_000}}},
	}
	for b.Loop() {
		for i := range lists {
			write(lists[i].ranges)
			cmd := exec.Command("ssh-keygen", "-Q", "-f", file, certFile)
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			took := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			if lists[i].least == 0 || took < lists[i].least {
				lists[i].least = took
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(reads), "reads")
	for _, l := range lists[1:] {
		b.ReportMetric(float64(reads)*float64((l.least-lists[0].least).Microseconds())/1000, l.name+"-ms")
	}
}

// opens counts how often a file is opened until the function that it returns
// is called.
func opens(b *testing.B, file string) func() int {
	b.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err == nil {
		// Closing comes in between, or the kernel would make one event of two.
		_, err = unix.InotifyAddWatch(fd, file, unix.IN_OPEN|unix.IN_CLOSE)
	}
	if err != nil {
		b.Fatal(err)
	}
	return func() (n int) {
		defer func() { _ = unix.Close(fd) }()
		events := make([]byte, 64<<10)
		size, err := unix.Read(fd, events)
		if err != nil {
			b.Fatal(err)
		}
		for ; size >= unix.SizeofInotifyEvent; size -= unix.SizeofInotifyEvent { // a file's have no name
			if binary.NativeEndian.Uint32(events[4:])&unix.IN_OPEN != 0 {
				n++
			}
			events = events[unix.SizeofInotifyEvent:]
		}
		return n
	}
}
