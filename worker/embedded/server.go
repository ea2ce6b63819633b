package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/server/common/authorization"
	clustermeta "go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/metrics"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/temporal"

	"hallpass/internal/plainjson"
	"hallpass/worker"
)

const (
	loopback = "127.0.0.1"
	cluster  = "active" // Temporal's own name for the only cluster
	attempts = 3        // to find inner ports that stay free until they are used
)

// server is what runs: Temporal in four roles, and its UI.
type server struct {
	temporal temporal.Server
	ui       *uiserver.Server
	log      *os.File
}

// Start starts Temporal and its UI and returns when both answer. The caller
// has checked that both ports are free.
func Start(ctx context.Context, o worker.ServerOptions) (_ worker.Server, err error) {
	path := o.Folder.Path("temporal.db")
	if err := prepare(ctx, path); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	sql := store(path)
	if err := makeNamespace(sql, o); err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", o.Namespace, err)
	}
	s := &server{}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if s.log, err = openLog(o.Folder.Path("temporal.log")); err != nil {
		return nil, fmt.Errorf("open temporal's log: %w", err)
	}
	log := slog.New(slog.NewJSONHandler(plainjson.Writer(s.log), &slog.HandlerOptions{Level: slog.LevelWarn}))

	for attempt := 1; ; attempt++ {
		if s.temporal, err = start(sql, o, log); err == nil {
			break
		}
		s.temporal = nil
		// Somebody may have taken one of the inner ports meanwhile.
		if end := fatal(""); attempt == attempts || !errors.As(err, &end) {
			return nil, fmt.Errorf("start temporal: %w", err)
		}
	}
	s.ui = newUI(o)
	go func() { _ = s.ui.Start() }() // returns nil after Stop; it ends the process where it can't listen
	if err := answers(ctx, fmt.Sprintf("http://%s/healthz", address(o.UIPort))); err != nil {
		return nil, fmt.Errorf("start the temporal UI: %w", err)
	}
	return s, nil
}

// Stop stops the UI first, then Temporal.
func (s *server) Stop() {
	if s.ui != nil {
		s.ui.Stop()
	}
	if s.temporal != nil {
		_ = s.temporal.Stop() // has nothing to report
	}
	if s.log != nil {
		_ = s.log.Close() // was written line by line
	}
}

// maxLog is how large Temporal's log may be when it is opened, in bytes. A
// larger one is put aside as ".old".
const maxLog = 8 << 20

func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// start makes a Temporal server and starts it. What Temporal takes for a
// reason to end the process is an error of type fatal.
func start(sql *config.SQL, o worker.ServerOptions, log *slog.Logger) (_ temporal.Server, err error) {
	defer func() {
		if r := recover(); r != nil {
			end, ok := r.(fatal)
			if !ok {
				panic(r)
			}
			err = end
		}
	}()
	ports, err := innerPorts(o)
	if err != nil {
		return nil, err
	}
	services := map[string]config.Service{}
	hosts := map[primitives.ServiceName]static.Hosts{}
	for name, port := range ports {
		services[string(name)] = config.Service{RPC: config.RPC{GRPCPort: port, BindOnIP: loopback}}
		hosts[name] = static.SingleLocalHost(address(port))
	}
	frontend := address(o.Port)
	srv, err := temporal.NewServer(
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithConfig(&config.Config{
			Persistence: config.Persistence{
				DefaultStore:     sqliteplugin.PluginName,
				VisibilityStore:  sqliteplugin.PluginName,
				NumHistoryShards: shards,
				DataStores:       map[string]config.DataStore{sqliteplugin.PluginName: {SQL: sql}},
			},
			ClusterMetadata: &clustermeta.Config{
				FailoverVersionIncrement: 10,
				MasterClusterName:        cluster,
				CurrentClusterName:       cluster,
				ClusterInformation: map[string]clustermeta.ClusterInformation{
					cluster: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: frontend},
				},
			},
			DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
			PublicClient:        config.PublicClient{HostPort: frontend},
			Archival: config.Archival{
				History:    config.HistoryArchival{State: "disabled"},
				Visibility: config.VisibilityArchival{State: "disabled"},
			},
			NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
				History:    config.HistoryArchivalNamespaceDefaults{State: "disabled"},
				Visibility: config.VisibilityArchivalNamespaceDefaults{State: "disabled"},
			}},
			Services: services,
		}),
		// One process knows where its parts are: no gossip to wait for.
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(logger{to: log}),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return authorization.NewNoopClaimMapper() }),
		temporal.WithCustomMetricsHandler(metrics.NoopMetricsHandler),
		temporal.WithDynamicConfigClient(dynamicconfig.StaticClient{
			// A waiting client can miss its wake-up and then waits this long.
			dynamicconfig.HistoryLongPollExpirationInterval.Key(): 2 * time.Second,
			// No task is handed to a worker that stops, where it would be missed
			// only after 10 seconds.
			dynamicconfig.EnableCancelWorkerPollsOnShutdown.Key(): true,
			// With several partitions a poll may wait at another one than its task.
			dynamicconfig.MatchingNumTaskqueueReadPartitions.Key():  1,
			dynamicconfig.MatchingNumTaskqueueWritePartitions.Key(): 1,
			// A request hears 1000 messages. What a flood sends beyond that would
			// only make its history long, and everything that reads it slow.
			dynamicconfig.MaximumSignalsPerExecution.Key(): 2000,
		}),
	)
	if err != nil {
		return nil, err
	}
	return srv, srv.Start()
}

// innerPorts gives the frontend its port and finds others for the services
// behind it: the next free ones above. With an ordinary port these are outside
// the range from which the system numbers connections, where one could be
// taken between here and its use.
func innerPorts(o worker.ServerOptions) (map[primitives.ServiceName]int, error) {
	ports := map[primitives.ServiceName]int{primitives.FrontendService: o.Port}
	port := o.Port
	for _, name := range []primitives.ServiceName{primitives.HistoryService, primitives.MatchingService, primitives.WorkerService} {
		for free := false; !free; {
			if port++; port > 65535 {
				port = 1024
			}
			if port == o.Port {
				return nil, errors.New("no free port for temporal's inner services")
			}
			l, err := net.Listen("tcp", address(port))
			if err == nil {
				free = port != o.UIPort
				_ = l.Close() // nobody has connected
			}
		}
		ports[name] = port
	}
	return ports, nil
}

// newUI makes Temporal's web UI. It fetches nothing from elsewhere.
func newUI(o worker.ServerOptions) *uiserver.Server {
	return uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		TemporalGRPCAddress: address(o.Port),
		Host:                loopback,
		Port:                o.UIPort,
		EnableUI:            true,
		DefaultNamespace:    o.Namespace,
		DisableNewsFetch:    true,
		HideLogs:            true,
		CORS:                uiconfig.CORS{CookieInsecure: true}, // plain HTTP, loopback only
	}))
}

// answers waits until a GET of url is answered with 200.
func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("GET %s: %s", url, resp.Status)
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }
