package worker

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallpass/access"
)

// The ports of Dev, on 127.0.0.1, where neither its options nor its
// configuration say otherwise: those that Temporal's own tools expect.
const (
	DefaultPort        = 7233
	DefaultUIPort      = 8233
	DefaultServicePort = 7443 // ours: no tool expects it
)

// devRetention is how long requests that have ended can be looked at in
// Temporal. The audit log keeps them for ever.
const devRetention = 30 * 24 * time.Hour

// DevOptions are for Dev.
type DevOptions struct {
	Dir         string              // everything is in here; "" for DevDir
	Port        int                 // of Temporal; 0: as configured
	UIPort      int                 // of its UI; 0: as configured
	ServicePort int                 // of the service for hosts; 0: as configured
	Server      StartServer         // embedded.Start
	Env         func(string) string // HOME, USER, SSH_AUTH_SOCK, XDG_DATA_HOME
	Log         io.Writer           // for people: what happens while it runs; may be nil
	Ready       func(Ready)         // called once, when requests can be made; may be nil
}

// Ready says what Dev has running.
type Ready struct {
	Dir     string   `json:"dir"`
	Config  string   `json:"config"`     // for --config or HALLPASS_CONFIG
	Address string   `json:"address"`    // of Temporal's gRPC
	UI      string   `json:"ui"`         // URL
	Service string   `json:"service"`    // URL, for hosts and people
	CA      string   `json:"service_ca"` // file of the certificate that hosts know it by
	PID     int      `json:"pid"`
	Millis  int64    `json:"start_ms"` // how long it took to start
	You     Person   `json:"you"`
	Other   Person   `json:"other"` // the second example person
	Made    []string `json:"made"`  // files that weren't there and were made
	Found   bool     `json:"found"` // clients find Config without being told
}

// Person is somebody in Dev's example directory.
type Person struct {
	Name  string `json:"name"`
	Group string `json:"group"`
	Key   string `json:"key"` // file to sign with; "" for the person's own keys
}

// Dev runs all of hallpass in this process: a Temporal server with its UI, a
// worker in every role, the audit log, and the SSH CA, all in one folder. At
// the first start it makes keys, and examples to edit; what is there it
// leaves alone. It ends with ctx, which is no error.
//
// Everything it does is on disk before it counts: kill the process at any
// moment, start it again, and every request goes on; a deadline that passed
// meanwhile is acted on at once.
//
// The server listens on 127.0.0.1 and asks nobody who they are. Other users of
// this machine can delay requests and read what is asked for; they can't get
// a credential that the policy doesn't give them.
func Dev(ctx context.Context, o DevOptions) (err error) {
	began := time.Now()
	if o.Server == nil {
		return access.Errorf(access.CodeUnavailable, "this program can't start a Temporal server")
	}
	if o.Dir == "" {
		if o.Dir, err = DevDir(o.Env); err != nil {
			return err
		}
	}
	folder, err := Claim(o.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	// The ports are checked before they get into the configuration.
	if o, err = devPorts(folder, o); err != nil {
		return err
	}
	for _, p := range []struct {
		port       int
		what, flag string
		others     []int
	}{
		{o.Port, "Temporal", "--port", nil},
		{o.UIPort, "the Temporal UI", "--ui-port", []int{o.Port}},
		{o.ServicePort, "the service for hosts", "--service-port", []int{o.Port, o.UIPort}},
	} {
		if slices.Contains(p.others, p.port) {
			return access.Errorf(access.CodeMalformed, "port %d is given twice, the second time for %s", p.port, p.what).WithHint("give another with %s", p.flag)
		}
		if err := checkPort(p.port, p.what, p.flag); err != nil {
			return err
		}
	}
	c, made, err := furnish(folder, o)
	if err != nil {
		return err
	}
	// What happens on the way is worth telling only if it is amiss.
	var least slog.LevelVar
	least.Set(slog.LevelWarn)
	log := newTextLog(cmp.Or(o.Log, io.Discard), &least)
	ready := Ready{
		Dir: folder.Path(), Config: folder.Path(configName), PID: os.Getpid(), Made: made.names,
		Address: address(o.Port), UI: "http://" + address(o.UIPort), You: made.you, Other: made.other,
		Found: finds(o.Env, folder.Path(configName)),
	}
	if c.Temporal.Address != ready.Address {
		log.Warn("clients will look for Temporal elsewhere: change hallpass.yaml or set HALLPASS_TEMPORAL_ADDRESS", "serving", ready.Address, "configured", c.Temporal.Address)
	}
	if c.Temporal.Deployment != "" {
		log.Warn("there is one build here, so temporal.deployment doesn't count", "configured", c.Temporal.Deployment)
		c.Temporal.Deployment = ""
	}
	c.Temporal.Address, c.UI = ready.Address, ready.UI
	// Where the configuration names an address, hosts elsewhere shall reach it.
	host, _, err := net.SplitHostPort(c.Service.Address)
	if err != nil {
		host = loopback
	}
	c.Service.Address = net.JoinHostPort(host, strconv.Itoa(o.ServicePort))
	ready.Service, ready.CA = "https://"+address(o.ServicePort), c.Service.CA
	if c.Temporal.Namespace == "" {
		c.Temporal.Namespace = "default"
	}

	h, stop, err := startHealth(context.WithoutCancel(ctx), c, log)
	if err != nil {
		return err
	}
	defer stop()
	p, err := open(ctx, c, c.Roles(), h, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	server, err := o.Server(ctx, ServerOptions{
		Folder: folder, Namespace: c.Temporal.Namespace, Port: o.Port, UIPort: o.UIPort,
		Attributes: attributes(), Retention: devRetention,
	})
	if err != nil {
		return err
	}
	defer server.Stop()
	err = p.serve(ctx, func() {
		ready.Millis = time.Since(began).Milliseconds()
		least.Set(slog.LevelInfo)
		if o.Ready != nil {
			o.Ready(ready)
		}
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// devPorts fills in the ports that the options leave open: as the folder's
// configuration has them, or the usual ones.
func devPorts(f *Folder, o DevOptions) (DevOptions, error) {
	port, uiPort, servicePort := DefaultPort, DefaultUIPort, DefaultServicePort
	there, err := f.exists(configName)
	if err != nil {
		return o, err
	}
	if there {
		c, err := Load(f.Path(configName), own(o.Env))
		if err != nil {
			return o, err
		}
		port, uiPort = portOf(c.Temporal.Address, port), portOf(hostOf(c.UI), uiPort)
		servicePort = portOf(c.Service.Address, servicePort)
	}
	o.Port, o.UIPort, o.ServicePort = pick(o.Port, port), pick(o.UIPort, uiPort), pick(o.ServicePort, servicePort)
	return o, nil
}

// portOf is the port of an address, host:port.
func portOf(address string, otherwise int) int {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return otherwise
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return otherwise
	}
	return port
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// finds says whether a client with this environment reads this configuration
// without being told.
func finds(env func(string) string, path string) bool {
	places, err := Places(env)
	if err != nil {
		return false
	}
	for _, place := range places {
		if _, err := os.Stat(place); err == nil {
			return place == path
		}
	}
	return false
}

// own hides what configures clients and other services: Dev is configured by
// its folder alone.
func own(env func(string) string) func(string) string {
	return func(name string) string {
		if strings.HasPrefix(name, "HALLPASS_") || strings.HasPrefix(name, "TEMPORAL_") {
			return ""
		}
		return env(name)
	}
}
