//go:build linux

// Hallpass-kms lends hallpass's SSH issuer a CA key that stays in a cloud's KMS
// or in an HSM. It is an ssh-agent for that key alone: the issuer names the key
// by its fingerprint (agent:SHA256:…), as with any agent, and never sees what
// opens the KMS. The SDKs of the clouds and PKCS#11 modules run here, in a
// process and under a user of their own.
//
//	hallpass-kms -socket /run/hallpass/ca.sock -user-ca 'awskms:key-id=…?region=eu-central-1'
//
// Keys are named by go.step.sm/crypto's URIs: awskms, cloudkms, azurekms, pkcs11
// (where it is built with cgo) and softkms, a key file. Without -socket it takes
// the one socket that systemd hands over (sd_listen_fds(3)).
//
// It promises to sign what a CA of hallpass signs and nothing else (package allow), so
// that whoever gets at the socket can't make a certificate for a year, a login
// or a signature on a file with it. What he can make, he could make as the
// issuer. Every signature is logged.
//
// It starts whether the KMS opens the key or not, says why not in its log and to
// the issuer, and tries again; only a PIN that was refused isn't tried twice,
// because tokens lock themselves.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	stdlog "log"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"

	"hallpass/kms/allow"
)

// version is that of the build; the linker sets it.
var version = "devel"

const (
	talkTime  = time.Minute // a conversation; the issuer has a new one for each signature
	talks     = 64          // at the same time
	drainTime = 5 * time.Second
)

// usageError is what the one who typed the command can mend.
type usageError struct{ error }

func main() {
	stdlog.SetOutput(io.Discard) // x/crypto's agent says there again what is logged here
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	var usage usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "hallpass-kms:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "hallpass-kms:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("hallpass-kms", flag.ContinueOnError)
	flags.SetOutput(stderr)
	socket := flags.String("socket", env("HALLPASS_KMS_SOCKET"), "where the issuer finds it (SSH_AUTH_SOCK), in a folder of mode 0700; default: the socket that systemd hands over")
	userCA := flags.String("user-ca", env("HALLPASS_KMS_USER_CA"), "URI of the key that certifies users, and signs revocation lists and what hosts are told")
	hostCA := flags.String("host-ca", env("HALLPASS_KMS_HOST_CA"), "URI of the key that certifies hosts")
	showVersion := flags.Bool("version", false, "say which build this is")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return usageError{errors.New("see hallpass-kms -help")} // flag has said what
	}
	if *showVersion {
		_, err := fmt.Fprintln(stdout, "hallpass-kms", version)
		return err
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("%.40q is not a flag; see hallpass-kms -help", flags.Arg(0))}
	}
	if *userCA == "" && *hostCA == "" {
		return usageError{errors.New("which key? name it with -user-ca or HALLPASS_KMS_USER_CA, such as pkcs11:token=hallpass;object=ssh-ca?pin-source=/etc/hallpass/pin")}
	}
	if *userCA == *hostCA {
		return usageError{errors.New("-user-ca and -host-ca are one key; neither may be taken for the other")}
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	keys := []*key{}
	refused := &pins{file: map[string]bool{}}
	for _, k := range []*key{{role: allow.Users, flag: "-user-ca", uri: *userCA}, {role: allow.Hosts, flag: "-host-ca", uri: *hostCA}} {
		if k.uri == "" {
			continue
		}
		if err := checkURI(k.uri); err != nil {
			return usageError{fmt.Errorf("%s: %w", k.flag, err)}
		}
		k.trouble, k.log, k.pins = errors.New("its KMS has not been asked yet"), log, refused
		keys = append(keys, k)
	}
	listener, owner, err := listen(*socket, env)
	if err != nil {
		return err
	}
	log.Info("listens", "socket", listener.Addr().String(), "for_uid", owner, "version", version)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, k := range keys {
		go k.keepOpening(ctx)
	}
	return serve(ctx, listener, owner, keys, log)
}

// listen opens the socket, and says who may use it beside root: who owns it.
func listen(path string, env func(string) string) (l *net.UnixListener, owner uint32, err error) {
	if path == "" {
		if env("LISTEN_PID") != strconv.Itoa(os.Getpid()) || env("LISTEN_FDS") != "1" {
			return nil, 0, usageError{errors.New("which socket? name it with -socket or HALLPASS_KMS_SOCKET")}
		}
		f := os.NewFile(3, "socket") // SD_LISTEN_FDS_START
		got, err := net.FileListener(f)
		if err != nil {
			return nil, 0, fmt.Errorf("the socket of systemd: %w", err)
		}
		_ = f.Close() // got has its own
		var ok bool
		if l, ok = got.(*net.UnixListener); !ok {
			return nil, 0, errors.New("the socket of systemd is not a Unix socket")
		}
		path = l.Addr().String()
	} else if l, err = create(path); err != nil {
		return nil, 0, err
	}
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("socket %s: %w", path, err), l.Close())
	}
	return l, stat.Uid, nil
}

// create makes a socket for this user alone.
func create(path string) (*net.UnixListener, error) {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("the socket's folder: %w", err)
	}
	if mode := dir.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("the socket's folder %s has mode %04o, so others get in; run: chmod 700 %[1]s", filepath.Dir(path), mode)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is there and is no socket", path)
		}
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("an agent listens on %s already", path)
		}
		if err := os.Remove(path); err != nil { // of one that was killed
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// serve talks to whoever may until ctx ends, and lets them finish what they say.
func serve(ctx context.Context, l *net.UnixListener, owner uint32, keys []*key, log *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var all sync.WaitGroup
	seats := make(chan struct{}, talks)
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		peer, err := credentials(conn)
		if err != nil || peer.Uid != owner && peer.Uid != 0 {
			log.Warn("turned away", "uid", peer.Uid, "pid", peer.Pid, "error", err)
			_ = conn.Close()
			continue
		}
		select {
		case seats <- struct{}{}:
		default:
			log.Warn("turned away: too many at once", "uid", peer.Uid, "pid", peer.Pid)
			_ = conn.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-seats }()
			defer conn.Close() //nolint:errcheck // nothing is left to lose
			if err := conn.SetDeadline(time.Now().Add(talkTime)); err != nil {
				return
			}
			t := &talk{keys: keys, now: time.Now, log: log.With("uid", peer.Uid, "pid", peer.Pid)}
			_ = agent.ServeAgent(t, conn) // its end is how each conversation ends
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(drainTime):
	}
	return nil
}

// credentials says who is at the other end, as the kernel knows it.
func credentials(conn *net.UnixConn) (unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return unix.Ucred{}, err
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, failed); err != nil {
		return unix.Ucred{}, err
	}
	return *peer, nil
}
