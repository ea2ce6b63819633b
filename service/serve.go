package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// How long a client may take. An answer that waits extends its own time.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 20 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	stopTimeout   = 2 * time.Second
)

// TLS is what to serve with, showing the certificate that shown gives for each
// connection.
func TLS(shown func() (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return shown() },
	}
}

// Serve serves the handler on a listener, with TLS, until ctx ends, which is
// no error. It closes the listener.
func Serve(ctx context.Context, l net.Listener, c *tls.Config, h http.Handler, slogger *slog.Logger) error {
	// Long polls end with the server: their clients ask again.
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s := &http.Server{
		Handler:           h,
		TLSConfig:         c,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return requests },
		// What strangers do wrong in TLS isn't worth a line each.
		ErrorLog: log.New(slogWriter{slogger}, "", 0),
	}
	failed := make(chan error, 1)
	go func() { failed <- s.ServeTLS(limit(l, MaxConnections), "", "") }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve https: %w", err)
	case <-ctx.Done():
	}
	cancel()
	stopping, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer done()
	if err := s.Shutdown(stopping); err != nil {
		_ = s.Close() // those that are left had their time
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve https: %w", err)
	}
	return nil
}

type slogWriter struct{ log *slog.Logger }

func (w slogWriter) Write(p []byte) (int, error) {
	w.log.Debug("https", "error", string(p))
	return len(p), nil
}

// limit accepts at most n connections at a time; the others wait in the
// kernel's queue.
func limit(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, free: make(chan struct{}, n), closing: make(chan struct{})}
}

type limited struct {
	net.Listener
	free    chan struct{}
	closing chan struct{}
	once    sync.Once
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closing:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &counted{Conn: c, release: sync.OnceFunc(func() { <-l.free })}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closing) })
	return l.Listener.Close()
}

type counted struct {
	net.Conn
	release func()
}

func (c *counted) Close() error {
	defer c.release()
	return c.Conn.Close()
}
