package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/evidence"
	"hallpass/internal/certfile"
	"hallpass/internal/wording"
	"hallpass/service"
	"hallpass/transport"
)

// openService opens the service.
func openService(_ context.Context, p *parts) (work, error) {
	c := p.config.Service
	if c.Address == "" {
		return work{}, access.Errorf(access.CodeMalformed, "service.address is not configured, and the role %s needs it", RoleService).
			WithHint("name it in hallpass.yaml or in HALLPASS_SERVICE_ADDRESS, such as 0.0.0.0:%d", DefaultServicePort)
	}
	shows, renewed, audience, err := p.shows()
	if err != nil {
		return work{}, err
	}
	o := service.Options{
		KRL: p.audit, Hosts: p.audit, Rulebook: p.book.Rulebook, Certify: p.certify, Log: p.log,
		Requests: p.requests, Audience: audience,
	}
	if p.tracing != nil {
		o.Trace = p.tracing.hear
	}
	handler := service.New(o)
	var listening atomic.Bool
	p.health.add("service", func(context.Context) (string, error) {
		if !listening.Load() {
			return "", access.Errorf(access.CodeUnavailable, "the service doesn't listen on %s", c.Address)
		}
		if renewed == nil {
			return "listens on " + c.Address, nil
		}
		ends := renewed.Ends().UTC().Format(time.RFC3339)
		if time.Now().After(renewed.Ends()) {
			return "", access.Errorf(access.CodeUnavailable, "the certificate of service.cert has expired, at %s", ends).
				WithHint("have it renewed; it is taken without a restart")
		}
		return "listens on " + c.Address + ", with a certificate until " + ends, nil
	})
	return work{run: func(ctx context.Context) error {
		var l net.ListenConfig
		listener, err := l.Listen(ctx, "tcp", c.Address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return access.Errorf(access.CodeUnavailable, "%s, for the service, is taken by another program", c.Address)
		} else if err != nil {
			return fmt.Errorf("listen on %s for the service: %w", c.Address, err)
		}
		if p.log.Info("serving hosts and people", "address", "https://"+listener.Addr().String(), "ca", filepath.Base(c.CA)); audience == "" {
			p.log.Warn("people are turned away: service.ca is to be the certificate of the CA that service.cert is from", "ca", c.CA)
		}
		listening.Store(true)
		defer listening.Store(false)
		if renewed != nil {
			ctx, stop := context.WithCancel(ctx)
			var watching sync.WaitGroup
			watching.Go(func() { p.watchCertificate(ctx, renewed) })
			defer watching.Wait()
			defer stop()
		}
		return service.Serve(ctx, listener, shows, handler, p.log)
	}}, nil
}

// shows is what the service serves TLS with: the certificate of service.cert,
// which something else renews, or one that its own CA makes. The CA is made
// where there is none. The audience is that of read statements, "" where it
// isn't known which CA people know a certificate from elsewhere by.
func (p *parts) shows() (shows *tls.Config, renewed *certfile.Pair, audience string, err error) {
	c := p.config.Service
	if c.Cert != "" {
		if err := p.config.needs("service.key"); err != nil {
			return nil, nil, "", err
		}
		if renewed, err = certfile.Open(c.Cert, c.Key, time.Now); err != nil {
			return nil, nil, "", err
		}
		if ca, err := os.ReadFile(c.CA); err == nil {
			certificate, err := transport.ParseCA(ca)
			if err != nil {
				return nil, nil, "", err
			}
			audience = access.Audience(certificate.Raw)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, "", fmt.Errorf("service.ca: %w", err)
		}
		return service.TLS(func() (*tls.Certificate, error) { return renewed.Certificate(), nil }), renewed, audience, nil
	}
	if err := p.config.needs("service.ca", "service.ca_key"); err != nil {
		return nil, nil, "", err
	}
	if err := service.CreateAuthority(c.CAKey, c.CA); err != nil {
		return nil, nil, "", err
	}
	authority, err := service.OpenAuthority(c.CAKey, c.CA, p.config.serviceNames(), time.Now)
	if err != nil {
		return nil, nil, "", err
	}
	return authority.TLS(), nil, access.Audience(authority.Certificate().Raw), nil
}

// watchCertificate takes a renewed certificate until ctx ends. What is wrong
// twice in a row isn't just being replaced, and is said once.
func (p *parts) watchCertificate(ctx context.Context, renewed *certfile.Pair) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last, said := "", ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		taken, err := renewed.Look()
		why := ""
		if err != nil {
			why = wording.Line(err.Error())
		}
		switch {
		case taken:
			p.log.Info("shows a renewed certificate", "until", renewed.Ends())
		case why != "" && why == last && why != said:
			p.log.Error("the service's certificate can't be used; the last good one is shown", "error", why, "hint", access.HintOf(err), "until", renewed.Ends())
		}
		if why == last {
			said = why
		}
		last = why
	}
}

// requests is where what people say to the service goes on to.
func (p *parts) requests() (service.Requests, error) {
	cl := p.temporal.Load()
	if cl == nil {
		return nil, access.Errorf(access.CodeUnavailable, "the service has no connection to temporal")
	}
	return looking{p.config.Transport(*cl, func(ctx context.Context, id string) (access.Status, error) { return p.recall(ctx, *cl, id) }), &activities.Activities{Log: p.audit}}, nil
}

// looking is transport.Temporal but for what is only looked up: the record answers
// that itself, and no workflow is started, and kept, for it.
type looking struct {
	*transport.Temporal
	record *activities.Activities
}

func (l looking) Locks(ctx context.Context) (evidence.Locks, error) {
	held, err := l.record.Locks(ctx, time.Now())
	return held, unread(err)
}

func (l looking) Delegations(ctx context.Context) (evidence.Delegations, error) {
	given, err := l.record.Delegations(ctx, time.Now())
	return given, unread(err)
}

func (l looking) Reviews(ctx context.Context) ([]access.ReviewTask, error) {
	tasks, err := l.record.Reviews(ctx, access.MostReviews)
	return tasks, unread(err)
}

// unread says of an error of the record's what it is to those who call.
func unread(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return access.Errorf(access.CodeUnavailable, "the audit log can't be read: %v", err)
}

// certify has an issuer certify a host, in a workflow. While it runs it isn't
// started again: whoever asks meanwhile may have come with other keys.
func (p *parts) certify(ctx context.Context, id string, in access.Enrolment) (access.Statement, error) {
	cl := p.temporal.Load()
	if cl == nil {
		return access.Statement{}, access.Errorf(access.CodeUnavailable, "the service has no connection to temporal")
	}
	run, err := (*cl).ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       access.HostWorkflowID(id),
		TaskQueue:                                access.TaskQueue,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		WorkflowExecutionTimeout:                 time.Hour,
		StaticSummary:                            "certify a host",
	}, access.HostWorkflow, in)
	var out access.Statement
	if err == nil {
		err = run.Get(ctx, &out)
	}
	switch {
	case err == nil && (out.Payload == "" || out.Signature == ""):
		// What an older issuer or worker makes of it, as of a type that it doesn't know.
		return access.Statement{}, access.Errorf(access.CodeUnavailable, "a worker or an issuer is older than the service").
			WithHint("try again when all of hallpass is of one version")
	case err == nil:
		return out, nil
	}
	if refusal := activities.Refusal(err); refusal != nil {
		return access.Statement{}, refusal
	}
	p.log.Warn("host is not certified yet", "statement", id, "error", err)
	return access.Statement{}, access.Errorf(access.CodeUnavailable, "no issuer has certified the host yet").WithHint("try again in a moment")
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
