package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/testsuite/measure"
	"hallpass/transport"
)

// revoke measures a revocation from the command to the closed session, on the
// topology, and its two halves by themselves: from the command to the signed list that a
// waiting host receives, and from there to the closed session. What ends in a session
// needs root, an sshd and PAM, as the tests of package host do.
func (b *bench) revoke() error {
	if err := b.world(b.revokeToList); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		fmt.Println("  to the closed session: only as root")
		return nil
	}
	tests, err := b.compile("testsuite/topology")
	if err != nil {
		return err
	}
	whole, err := b.goBenchOnce(tests, "testsuite/topology", "^BenchmarkRevoke$", fmt.Sprintf("%dx", b.times(20)+1))
	if err != nil {
		return err
	}
	figures := whole["Revoke"]
	b.add(row{Name: "command to closed session", P50: figures["p50-ms"] / 1e3, P99: figures["p99-ms"] / 1e3, N: b.times(20)})
	got, err := b.goBench("host", "^BenchmarkRevoke(Many)?$")
	if err != nil {
		return err
	}
	for _, r := range []struct {
		key, name string
		sessions  int
	}{{"Revoke", "list to closed session", 1}, {"RevokeMany", "list to closed session, 40 at once", 40}} {
		figures = got[r.key]
		b.add(row{Name: r.name, P50: figures["p50-ms"] / 1e3, P99: figures["p99-ms"] / 1e3, N: r.sessions * int(figures["n"])})
	}
	return nil
}

func (b *bench) revokeToList(w *world) error {
	grants, err := w.grants(b.ctx, "alice", b.times(20)+1)
	if err != nil {
		return err
	}
	arrived, command, unanswered, err := b.revocations(w, w.env("bob"), grants, time.Hour)
	if err != nil {
		return err
	}
	if unanswered > 0 {
		return fmt.Errorf("%d commands had no answer", unanswered)
	}
	arrived, command = arrived[1:], command[1:] // the first one is to get warm
	b.add(row{Name: "command to list at the host", P50: arrived.At(0.5).Seconds(), P99: arrived.At(0.99).Seconds(), N: len(arrived)})
	b.add(row{Name: "command to its answer, " + string(access.StateRevoked), P50: command.At(0.5).Seconds(), P99: command.At(0.99).Seconds(), N: len(command)})
	return nil
}

// https is a client of the service, and the certificate of the CA that it knows
// it by.
func (w *world) https() (*http.Client, *x509.Certificate, error) {
	data, err := os.ReadFile(w.CA)
	if err != nil {
		return nil, nil, err
	}
	ca, err := transport.ParseCA(data)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true,
	}}, ca, nil
}

// unavailable is what a command exits with whom nobody has answered in time.
const unavailable = 5

// revocations has grants revoked by commands in an environment, one after the
// other and as many as there is time for, and says how long each took: until the list was at a host that waits
// for it, and until the command had its answer. One that nobody answers is run again
// until the list is there, and counted.
func (b *bench) revocations(w *world, env []string, grants []asked, within time.Duration) (arrived, command measure.Times, unanswered int, err error) {
	host, _, err := w.https()
	if err != nil {
		return nil, nil, 0, err
	}
	defer host.CloseIdleConnections()
	// list waits as an agent does.
	list := func(after uint64) (*krl.List, error) {
		resp, err := host.Get(w.Service + "/v1/krl?wait=50s&after=" + strconv.FormatUint(after, 10))
		if err != nil {
			return nil, err
		}
		defer func() { _ = resp.Body.Close() }()
		data, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			return nil, errors.Join(err, fmt.Errorf("GET the list: %s", resp.Status))
		}
		return krl.Parse(data)
	}
	for end := time.Now().Add(within); len(grants) > 0 && time.Now().Before(end); grants = grants[1:] {
		a := grants[0]
		before, err := list(0)
		if err != nil {
			return nil, nil, 0, err
		}
		got := make(chan error, 1)
		began := time.Now()
		var took time.Duration
		go func() {
			after, err := list(before.Version)
			// One that is made because the last one is a minute old says nothing new.
			for err == nil && after.Len() <= before.Len() {
				after, err = list(after.Version)
			}
			took = time.Since(began)
			got <- err
		}()
		for tries := 1; ; tries++ {
			cmd := exec.CommandContext(b.ctx, b.program, "revoke", a.request.ID, "--reason", "measured")
			cmd.Env = env
			out, err := cmd.CombinedOutput()
			if err == nil {
				break
			}
			unanswered++
			if len(got) > 0 {
				break
			}
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != unavailable || tries == 20 {
				return nil, nil, 0, fmt.Errorf("hallpass revoke: %w\n%s", err, out)
			}
		}
		command = append(command, time.Since(began))
		if err := <-got; err != nil {
			return nil, nil, 0, err
		}
		arrived = append(arrived, took)
	}
	return arrived, command, unanswered, nil
}
