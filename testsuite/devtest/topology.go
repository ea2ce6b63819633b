package devtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"go.temporal.io/sdk/client"
	"golang.org/x/crypto/ssh"

	"hallpass/testsuite/process"
)

// ServeTopology is set where BenchmarkServe of testsuite/topology is to run the topology;
// TopologyRuns begins the line by which it says that it does, before a Topology as JSON.
const (
	ServeTopology = "HALLPASS_SERVE_TOPOLOGY"
	TopologyRuns  = "the topology runs: "
)

// Topology is where it runs.
type Topology struct {
	Address   string // of Temporal
	Namespace string
	Folder    string // what is /etc/hallpass in the containers
	Database  string // an empty one on its PostgreSQL, as an address with the password: nothing else is there
	People    People `json:"-"` // alice, who asks, and bob, who approves
}

// Deploy runs the topology by the program of testsuite/topology's tests, with
// bin/hallpass. The caller stops it.
func Deploy(tests, program string) (t *Topology, stop func() error, err error) {
	cmd := exec.Command(tests, "-test.run=^$", "-test.bench=^BenchmarkServe$", "-test.benchtime=1x", "-test.timeout=0")
	cmd.Dir, cmd.Env = "testsuite/topology", append(os.Environ(), "HALLPASS_BIN="+program, ServeTopology+"=1")
	open, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	t = &Topology{People: People{}}
	p, err := process.Start(cmd, func(line string) bool {
		where, runs := strings.CutPrefix(line, TopologyRuns)
		return runs && json.Unmarshal([]byte(where), t) == nil
	})
	if err != nil {
		return nil, nil, err
	}
	stop = func() error {
		_ = open.Close() // it may have ended
		<-p.Done()
		if out := p.Output(); strings.Contains(out, "--- FAIL") {
			return fmt.Errorf("the topology failed: %s", out)
		}
		return nil
	}
	for _, name := range []string{"alice", "bob"} {
		key := filepath.Join(t.Folder, "people", name, "id")
		pem, err := os.ReadFile(key)
		person := Person{Key: key}
		if err == nil {
			person.Signer, err = ssh.ParsePrivateKey(pem)
		}
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		t.People[name] = person
	}
	return t, stop, nil
}

// Dial connects to its Temporal, as hallpass's own processes do.
func (t *Topology) Dial(ctx context.Context) (client.Client, error) {
	file := func(name string) string { return filepath.Join(t.Folder, "tls", name) }
	pair, err := tls.LoadX509KeyPair(file("client.pem"), file("client.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(file("ca.pem"))
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("there is no certificate in %s: %w", file("ca.pem"), err)
	}
	return dial(ctx, t.Address, t.Namespace, &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS13})
}
