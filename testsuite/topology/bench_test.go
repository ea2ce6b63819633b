package topology

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallpass/testsuite/devtest"
	"hallpass/testsuite/measure"
)

// BenchmarkServe runs the topology for make bench, which measures requests on it: one
// process of each role that makes a grant of a request, without Vault and hosts. It says
// where that is in a line, and ends when its standard input does.
func BenchmarkServe(b *testing.B) {
	if os.Getenv(devtest.ServeTopology) == "" {
		b.Skip(devtest.ServeTopology + " is not set; make bench ONLY=postgres sets it")
	}
	w := furnish(b)
	delete(w.env, "HALLPASS_SWEEP_EVERY") // as often as it is for everybody
	w.run("workflows-1", "issuer-1")
	where, err := json.Marshal(devtest.Topology{
		Address: w.frontend, Namespace: namespace, Folder: w.dir,
		Database: strings.Replace(w.pg.AdminDSN(w.pg.NewDatabase(b)), "sslmode=disable", "sslmode=require", 1),
	})
	if err != nil {
		b.Fatal(err)
	}
	fmt.Printf("\n%s%s\n", devtest.TopologyRuns, where)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRevoke is a revocation from hallpass revoke, as a process, to the end of the ssh
// client whose session it closes. The first one is to get warm.
func BenchmarkRevoke(b *testing.B) {
	w := furnish(b)
	delete(w.env, "HALLPASS_SWEEP_EVERY")
	w.furnishHosts()
	w.run("workflows-1", "issuer-1", "service")
	w.enroll()
	var times measure.Times
	for b.Loop() {
		b.StopTimer()
		id, err := w.ask(b.Context(), alice, "ssh/web-1", visit)
		if err == nil {
			err = w.approve(b.Context(), alice, id)
		}
		if err == nil {
			err = w.receive(b.Context(), alice, id)
		}
		var p *pass
		if err == nil {
			p, err = w.keep("web-1", filepath.Join(w.dir, "people/alice/.hallpass"))
		}
		if err != nil {
			b.Fatal(err)
		}
		session := exec.CommandContext(b.Context(), p.ssh[0], append(slices.Clone(p.ssh[1:len(p.ssh)-1]), "echo in; exec sleep 60")...)
		said, err := session.StdoutPipe()
		if err == nil {
			err = session.Start()
		}
		if err != nil {
			b.Fatal(err)
		}
		if line, err := bufio.NewReader(said).ReadString('\n'); line != "in\n" {
			b.Fatalf("ssh says %q, %v", line, err)
		}
		revoke := exec.CommandContext(b.Context(), filepath.Join(w.bin, "hallpass"), "revoke", id, "--reason", "measured")
		revoke.Env = append(w.environment(), "HALLPASS_USER=bob", "HALLPASS_KEY="+filepath.Join(w.dir, "people/bob/id"), "HALLPASS_SERVICE=https://"+w.service)
		b.StartTimer()
		began := time.Now()
		if err := revoke.Start(); err != nil {
			b.Fatal(err)
		}
		err = session.Wait()
		times = append(times, time.Since(began))
		b.StopTimer()
		if err == nil {
			b.Fatal("the session ended by itself")
		}
		if err := revoke.Wait(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	times = times[min(1, len(times)-1):]
	b.ReportMetric(float64(times.At(0.5))/1e6, "p50-ms")
	b.ReportMetric(float64(times.At(0.99))/1e6, "p99-ms")
}
