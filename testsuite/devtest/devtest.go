// Package devtest runs hallpass dev for programs that play requests with it:
// in a folder whose people all have a key, and with a Temporal client that
// needs nothing of hallpass but the names in package access.
package devtest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/durationpb"

	"hallpass/access"
	"hallpass/statement"
	"hallpass/worker"
)

// People are those of a directory.
type People map[string]Person

// Person is one of them.
type Person struct {
	Group  string // "" leaves the person out of the directory
	Signer ssh.Signer
	Key    string // file of the private key
}

// Furnish writes the files of a folder for hallpass dev, by their names in it,
// with a directory of people in these groups, and gives everybody a key.
func Furnish(dir string, files map[string]string, groups map[string]string) (People, error) {
	people := People{}
	for name, group := range groups {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		p := Person{Group: group, Key: filepath.Join(dir, "people", name, "id")}
		if p.Signer, err = ssh.NewSignerFromKey(key); err != nil {
			return nil, err
		}
		block, err := ssh.MarshalPrivateKey(key, name)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(p.Key), 0o700); err != nil {
			return nil, err
		}
		public := ssh.MarshalAuthorizedKey(p.Signer.PublicKey())
		if err := errors.Join(os.WriteFile(p.Key, pem.EncodeToMemory(block), 0o600), os.WriteFile(p.Key+".pub", public, 0o644)); err != nil {
			return nil, err
		}
		people[name] = p
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	return people, os.WriteFile(filepath.Join(dir, "directory.yaml"), []byte(people.Directory()), 0o600)
}

// Directory is the directory without those who have left.
func (p People) Directory(left ...string) string {
	var b strings.Builder
	b.WriteString("users:\n")
	for name, person := range p {
		if person.Group != "" && !slices.Contains(left, name) {
			fmt.Fprintf(&b, "  %s: {groups: [%s], keys: [%q]}\n", name, person.Group, statement.MarshalKey(person.Signer.PublicKey()))
		}
	}
	return b.String()
}

// Header begins a payload that a person signs now.
func (p People) Header(name string, typ access.Type) access.Header {
	return access.Header{Type: typ, ID: statement.NewID(), Signer: name, Time: statement.Time(time.Now())}
}

// Sign signs a payload as a person.
func (p People) Sign(name string, payload any) (access.Statement, error) {
	return statement.Sign(p[name].Signer, payload)
}

// Request is a request for an SSH certificate for a key that nobody has kept.
func (p People) Request(name, resource, login string, d time.Duration) (access.Request, error) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return access.Request{}, err
	}
	subject, err := ssh.NewPublicKey(public)
	return access.Request{
		Header: p.Header(name, access.TypeRequest), Resource: resource, Login: login,
		Duration: access.InSeconds(d), Reason: "played by a program", PublicKey: statement.MarshalKey(subject),
	}, err
}

// Server is a running hallpass dev.
type Server struct {
	worker.Ready
	Client client.Client

	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
	err   error         // how; read after ended is closed
}

// Serve starts hallpass dev in a folder and returns when requests can be made.
// What it has to say goes to dev.log there.
func Serve(ctx context.Context, program, dir string) (_ *Server, err error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	ready := filepath.Join(dir, "ready")
	// Not CommandContext: an interrupt reaches it by itself, and Stop waits.
	s := &Server{ended: make(chan struct{}), cmd: exec.Command(program, "dev", "--dir", dir, "--port", ports[0], "--ui-port", ports[1], "--service-port", ports[2], "--ready-file", ready)}
	log, err := os.OpenFile(filepath.Join(dir, "dev.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	giveUp := time.After(2 * time.Minute)
	for {
		data, err := os.ReadFile(ready)
		if err == nil {
			if err := json.Unmarshal(data, &s.Ready); err != nil {
				return nil, err
			}
			break
		}
		select {
		case <-tick.C:
		case <-s.ended:
			said, _ := os.ReadFile(log.Name()) // nothing, at worst
			return nil, fmt.Errorf("%s dev ended before it was ready: %s", program, said)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-giveUp:
			return nil, fmt.Errorf("%s dev did not get ready", program)
		}
	}
	s.Client, err = s.Dial(ctx, "default")
	return s, err
}

// Dial connects to a namespace of the server's Temporal.
func (s *Server) Dial(ctx context.Context, namespace string) (client.Client, error) {
	return Dial(ctx, s.Address, namespace)
}

// Dial connects to a namespace of the Temporal at an address.
func Dial(ctx context.Context, address, namespace string) (client.Client, error) {
	return dial(ctx, address, namespace, nil)
}

func dial(ctx context.Context, address, namespace string, tls *tls.Config) (client.Client, error) {
	return client.DialContext(ctx, client.Options{
		HostPort: address, Namespace: namespace, Identity: "devtest", Logger: Quiet(),
		ConnectionOptions: client.ConnectionOptions{TLS: tls, GrpcCompression: &client.GrpcCompressionNone{}}, // as hallpass on the same machine
	})
}

// Quiet is a logger for Temporal's SDK that says nothing.
func Quiet() sdklog.Logger { return sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler)) }

// Namespace makes a namespace that nobody serves yet, and connects to it.
func (s *Server) Namespace(ctx context.Context, name string) (client.Client, error) {
	if err := MakeNamespace(ctx, s.Client, name); err != nil {
		return nil, err
	}
	return s.Dial(ctx, name)
}

// MakeNamespace makes a namespace with the search attributes that requests have. c is
// connected to any.
func MakeNamespace(ctx context.Context, c client.Client, name string) error {
	_, err := c.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
		Namespace: name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
	})
	if err != nil {
		return err
	}
	// The server takes a moment to know the namespace, and another to know what it has.
	if err := again(ctx, func() error {
		_, err := c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
			Namespace: name,
			SearchAttributes: map[string]enums.IndexedValueType{
				access.AttrRequester: enums.INDEXED_VALUE_TYPE_KEYWORD,
				access.AttrResource:  enums.INDEXED_VALUE_TYPE_KEYWORD,
				access.AttrState:     enums.INDEXED_VALUE_TYPE_KEYWORD,
				access.AttrApprovers: enums.INDEXED_VALUE_TYPE_KEYWORD_LIST,
				access.AttrExpires:   enums.INDEXED_VALUE_TYPE_DATETIME,
			},
		})
		return err
	}); err != nil {
		return err
	}
	return again(ctx, func() error {
		_, err := c.WorkflowService().CountWorkflowExecutions(ctx, &workflowservice.CountWorkflowExecutionsRequest{
			Namespace: name, Query: access.AttrState + " = 'pending'",
		})
		return err
	})
}

// again does something until it succeeds, for half a minute.
func again(ctx context.Context, do func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for tries := 0; ; tries++ {
		if err := do(); err == nil || tries == 600 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stop ends it in good order.
func (s *Server) Stop() error {
	if s.Client != nil {
		s.Client.Close()
	}
	_ = s.cmd.Process.Signal(os.Interrupt) // fails where it has ended, and then err says how
	<-s.ended
	return s.err
}

// freePorts finds ports of 127.0.0.1 that nobody listens on.
func freePorts(n int) (ports []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // once all are found, so that they differ
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return slices.Clip(ports), nil
}
