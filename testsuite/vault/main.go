// Vault-for-tests is a real Vault server (HashiCorp's, unmodified) for
// hallpass's tests: its core and its HTTP API in one small program, with the
// engines that the tests use, which says on standard output when it is ready
// and how to get in. Its root token and unseal keys lie about in clear text:
// never use it for anything else.
//
// It differs from "vault server -dev" in that it can keep its data in a folder,
// start sealed, be killed and go on, and retry revocations at once.
package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/audit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// options are the command line.
type options struct {
	listen      string
	dir         string
	sealed      bool
	cert, key   string
	revokeRetry time.Duration
	logLevel    string
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:0", "`address` to listen on")
	flag.StringVar(&o.dir, "dir", "", "`folder` for data, root token and unseal keys; without it all is in memory")
	flag.BoolVar(&o.sealed, "sealed", false, "stay sealed after start")
	flag.StringVar(&o.cert, "cert", "", "TLS certificate `file`; without it the API is plain HTTP")
	flag.StringVar(&o.key, "key", "", "TLS key `file`")
	flag.DurationVar(&o.revokeRetry, "revoke-retry", time.Second, "wait before the first retry of a revocation that failed; each further one doubles it (Vault's own value is 10s)")
	flag.StringVar(&o.logLevel, "log-level", "info", "Vault's log `level`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "vault-for-tests:", err)
		os.Exit(1)
	}
}

// run serves until ctx is done.
func run(ctx context.Context, o options) error {
	// First the port: where it is taken, nothing has been changed yet.
	l, err := listen(o)
	if err != nil {
		return err
	}
	defer l.Close()
	core, err := newCore(o)
	if err != nil {
		return err
	}
	defer func() { _ = core.Shutdown() }()
	k, err := initialize(ctx, core, o.dir)
	if err != nil {
		return err
	}
	if !o.sealed {
		if err := unseal(core, k); err != nil {
			return err
		}
	}

	api := vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: &configutil.Listener{}})
	server := &http.Server{Handler: api, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	k.Address = "http://" + l.Addr().String()
	if o.cert != "" {
		k.Address = "https://" + l.Addr().String()
	}
	if err := json.NewEncoder(os.Stdout).Encode(k); err != nil {
		return err
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// listen opens the port. With TLS it asks clients for a certificate and leaves
// it to Vault's cert login what that is worth.
func listen(o options) (net.Listener, error) {
	l, err := net.Listen("tcp", o.listen)
	if err != nil || o.cert == "" {
		return l, err
	}
	cert, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequestClientCert,
		MinVersion:   tls.VersionTLS12,
	}), nil
}

// newCore makes a Vault with storage and engines, sealed.
func newCore(o options) (*vault.Core, error) {
	logger := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.LevelFromString(o.logLevel)})
	var storage physical.Backend
	var err error
	if o.dir == "" {
		storage, err = inmem.NewInmem(nil, logger)
	} else {
		storage, err = file.NewFileBackend(map[string]string{"path": filepath.Join(o.dir, "storage")}, logger)
	}
	if err != nil {
		return nil, err
	}
	return vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		BuiltinRegistry:    plugins{},
		CredentialBackends: map[string]logical.Factory{},
		LogicalBackends:    mounted,
		AuditBackends:      map[string]audit.Factory{audit.TypeFile: audit.NewFileBackend},
		DisableMlock:       true,
		Logger:             logger,

		// Six attempts, as in production, but sooner.
		ExpirationRevokeRetryBase: o.revokeRetry,
	})
}

// keys are what the line on standard output says, and what is kept in the
// folder so that whoever starts the program again can get in.
type keys struct {
	Address    string   `json:"address,omitempty"`
	RootToken  string   `json:"root_token"`
	UnsealKeys []string `json:"unseal_keys"` // base64
}

// initialize makes root token and unseal keys, or reads those of the folder.
func initialize(ctx context.Context, core *vault.Core, dir string) (keys, error) {
	kept := filepath.Join(dir, "keys.json")
	var k keys
	if dir != "" {
		data, err := os.ReadFile(kept)
		if err == nil {
			return k, json.Unmarshal(data, &k)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return k, err
		}
	}
	result, err := core.Initialize(ctx, &vault.InitParams{
		BarrierConfig:  &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
		RecoveryConfig: &vault.SealConfig{},
	})
	if err != nil {
		return k, err // "already initialized" if it was killed right here
	}
	k.RootToken = result.RootToken
	for _, share := range result.SecretShares {
		k.UnsealKeys = append(k.UnsealKeys, base64.StdEncoding.EncodeToString(share))
	}
	if dir == "" {
		return k, nil
	}
	data, err := json.Marshal(k)
	if err != nil {
		return k, err
	}
	return k, os.WriteFile(kept, data, 0o600)
}

func unseal(core *vault.Core, k keys) error {
	for _, key := range k.UnsealKeys {
		share, err := base64.StdEncoding.DecodeString(key)
		if err != nil {
			return err
		}
		if _, err := core.Unseal(share); err != nil {
			return err
		}
	}
	if core.Sealed() {
		return errors.New("still sealed after all unseal keys")
	}
	return nil
}
