package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/service"
)

// openService opens the service. Its CA is made where there is none.
func openService(_ context.Context, p *parts) (work, error) {
	c := p.config.Service
	if c.Address == "" {
		return work{}, access.Errorf(access.CodeMalformed, "service.address is not configured, and the role %s needs it", RoleService).
			WithHint("name it in hallpass.yaml or in HALLPASS_SERVICE_ADDRESS, such as 0.0.0.0:%d", DefaultServicePort)
	}
	if err := p.config.needs("service.ca", "service.ca_key"); err != nil {
		return work{}, err
	}
	_, missing := os.Stat(c.CAKey)
	if errors.Is(missing, fs.ErrNotExist) {
		if err := service.CreateAuthority(c.CAKey, c.CA); err != nil {
			return work{}, err
		}
	}
	authority, err := service.OpenAuthority(c.CAKey, c.CA, p.config.serviceNames(), time.Now)
	if err != nil {
		return work{}, err
	}
	handler := service.New(service.Options{KRL: p.audit, Hosts: p.audit, Rulebook: p.book.Rulebook, Certify: p.certify, Log: p.log})
	var listening atomic.Bool
	p.health.add("service", func(context.Context) (string, error) {
		if !listening.Load() {
			return "", access.Errorf(access.CodeUnavailable, "the service doesn't listen on %s", c.Address)
		}
		return "listens on " + c.Address, nil
	})
	return work{run: func(ctx context.Context) error {
		var l net.ListenConfig
		listener, err := l.Listen(ctx, "tcp", c.Address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return access.Errorf(access.CodeUnavailable, "%s, for the service, is taken by another program", c.Address)
		} else if err != nil {
			return fmt.Errorf("listen on %s for the service: %w", c.Address, err)
		}
		p.log.Info("serving hosts", "address", "https://"+listener.Addr().String(), "ca", filepath.Base(c.CA))
		listening.Store(true)
		defer listening.Store(false)
		return service.Serve(ctx, listener, authority, handler, p.log)
	}}, nil
}

// certify has an issuer certify a host, in a workflow. While it runs it isn't
// started again: whoever asks meanwhile may have come with other keys.
func (p *parts) certify(ctx context.Context, id string, in access.Enrolment) (access.Enrolled, error) {
	cl := p.temporal.Load()
	if cl == nil {
		return access.Enrolled{}, access.Errorf(access.CodeUnavailable, "the service has no connection to temporal")
	}
	run, err := (*cl).ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       access.HostWorkflowID(id),
		TaskQueue:                                access.TaskQueue,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		WorkflowExecutionTimeout:                 time.Hour,
		StaticSummary:                            "certify a host",
	}, access.HostWorkflow, in)
	var out access.Enrolled
	if err == nil {
		err = run.Get(ctx, &out)
	}
	if err == nil {
		return out, nil
	}
	if refusal := activities.Refusal(err); refusal != nil {
		return access.Enrolled{}, refusal
	}
	p.log.Warn("host is not certified yet", "statement", id, "error", err)
	return access.Enrolled{}, access.Errorf(access.CodeUnavailable, "no issuer has certified the host yet").WithHint("try again in a moment")
}

// serviceNames lists all that the service's certificate is good for.
func (c *Config) serviceNames() []string {
	names := []string{"localhost", loopback, "::1"}
	if host, _, err := net.SplitHostPort(c.Service.Address); err == nil {
		if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
			names = append(names, host)
		}
	}
	if host, err := os.Hostname(); err == nil && checkHosts(host) == nil {
		names = append(names, host)
	}
	names = append(names, hostList(c.Service.Names)...)
	slices.Sort(names)
	return slices.Compact(names)
}
