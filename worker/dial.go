package worker

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/interceptor"
	sdklog "go.temporal.io/sdk/log"
	"google.golang.org/grpc/codes"

	"hallpass/access"
	"hallpass/codec"
	"hallpass/internal/wording"
	"hallpass/transport"
)

// attributes are the search attributes that requests carry.
func attributes() map[string]enumspb.IndexedValueType {
	return map[string]enumspb.IndexedValueType{
		access.AttrRequester: enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		access.AttrResource:  enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		access.AttrState:     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		access.AttrApprovers: enumspb.INDEXED_VALUE_TYPE_KEYWORD_LIST,
		access.AttrExpires:   enumspb.INDEXED_VALUE_TYPE_DATETIME,
	}
}

// Dial connects to Temporal and fails with CodeUnavailable if it doesn't
// answer within seconds. The caller closes the client.
func (c *Config) Dial(ctx context.Context) (client.Client, error) {
	ring, err := c.openRing()
	if err != nil {
		return nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	tracing, err := c.traces(ctx, quiet)
	if err != nil {
		return nil, err
	}
	cl, err := c.dial(ctx, ring, quiet, nil, tracing)
	if err != nil {
		tracing.Close()
		return nil, err
	}
	return traced{cl, tracing}, nil
}

// HTTPS prepares to talk to the service that people's commands are configured
// to use. sign is as in transport.HTTPSOptions, nil to say nothing but Hello.
func (c *Config) HTTPS(ctx context.Context, sign func(access.Read) (access.Statement, error), now func() time.Time) (*transport.HTTPS, error) {
	if err := c.needs("service.ca"); err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(c.Service.CA)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, access.Errorf(access.CodeNotFound, "there is no %s, which the service is known by", c.Service.CA).
			WithHint("it is a copy of service_ca.pub.pem of the service; service.ca or HALLPASS_SERVICE_CA names it")
	} else if err != nil {
		return nil, fmt.Errorf("service.ca: %w", err)
	}
	o := transport.HTTPSOptions{Address: c.Client.Service, CA: pem, Sign: sign, Now: now}
	tracing, err := c.traces(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	if tracing != nil {
		o.Traces = tracing
	}
	h, err := transport.NewHTTPS(o)
	if err != nil {
		tracing.Close()
		return nil, err
	}
	return h, nil
}

// dial is Dial for workers: the SDK takes its own kind of client alone, so
// they close tracing, which may be nil, themselves.
func (c *Config) dial(ctx context.Context, ring *codec.Ring, log *slog.Logger, counts client.MetricsHandler, tracing *tracing) (client.Client, error) {
	o, err := c.clientOptions()
	if err != nil {
		return nil, err
	}
	if err := c.renewing(o.ConnectionOptions.TLS, log); err != nil {
		return nil, err
	}
	if onThisMachine(o.HostPort) {
		o.ConnectionOptions.GrpcCompression = &client.GrpcCompressionNone{} // there is no network to spare
	}
	if o.Credentials != nil && c.getenv(apiKeyVariable) == "" {
		o.Credentials = client.NewAPIKeyDynamicCredentials(c.apiKey(log))
	}
	o.Logger, o.MetricsHandler = sdklog.NewStructuredLogger(log), counts
	o.DataConverter, o.FailureConverter = ring.Converter(), ring.FailureConverter()
	if tracing != nil {
		o.Interceptors = []interceptor.ClientInterceptor{tracing.interceptor}
	}
	cl, err := client.DialContext(ctx, o)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		profile, perr := c.profile()
		if perr != nil {
			return nil, perr
		}
		return nil, c.away(profile, err)
	}
	return cl, nil
}

// away says that Temporal can't be worked with, and what to do. It may come back
// by itself, also where it refuses: keys and rights are mended elsewhere.
func (c *Config) away(p envconfig.ClientConfigProfile, err error) *access.Error {
	why := cause(err)
	if !turnedAway(err) {
		return access.Errorf(access.CodeUnavailable, "temporal at %s doesn't answer: %s", p.Address, why).WithHint("%s", c.mend(p.Address, why))
	}
	refusal := access.Errorf(access.CodeUnavailable, "temporal at %s refuses hallpass: %s", p.Address, why)
	switch {
	case c.Temporal.Address != "":
		return refusal.WithHint("with temporal.address set, hallpass goes there without a key and a certificate; if it wants to know who comes, leave that out and set TEMPORAL_ADDRESS and what goes with it")
	case p.APIKey == "" && p.TLS != nil && (p.TLS.ClientCertPath != "" || len(p.TLS.ClientCertData) > 0):
		return refusal.WithHint("hallpass's own certificate, of TEMPORAL_TLS_CLIENT_CERT_PATH, isn't known there or isn't for namespace %s; or hallpass has to come with more: by an API key, in TEMPORAL_API_KEY or the profile file", p.Namespace)
	case p.APIKey == "":
		return refusal.WithHint("it wants to know who comes: by an API key, in TEMPORAL_API_KEY or the profile file, or by a certificate, TEMPORAL_TLS_CLIENT_CERT_PATH")
	case c.getenv(apiKeyVariable) != "":
		return refusal.WithHint("the API key in %s has run out, isn't known there or isn't for namespace %s: put a new one there and start again", apiKeyVariable, p.Namespace)
	}
	return refusal.WithHint("the API key in the profile file has run out, isn't known there or isn't for namespace %s: put a new one there; it is read again by itself", p.Namespace)
}

// turnedAway says of an error of Temporal's whether it is about who asks.
func turnedAway(err error) bool {
	code := serviceerror.ToStatus(err).Code()
	return code == codes.Unauthenticated || code == codes.PermissionDenied
}

// anew is an error that a client which is dialled again may not meet.
type anew struct{ error }

func (a anew) Unwrap() error { return a.error }

// apiKeyVariable is where envconfig takes an API key from before it looks into the
// profile file.
const apiKeyVariable = "TEMPORAL_API_KEY"

// apiKey gives the API key that the profile file has. One in the environment would
// stay what it was when the program began.
func (c *Config) apiKey(log *slog.Logger) func(context.Context) (string, error) {
	var mu sync.Mutex
	var key string
	var read time.Time
	return func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if !read.IsZero() && time.Since(read) < keyEvery {
			return key, nil
		}
		read = time.Now()
		if p, err := c.profile(); err != nil {
			log.Error("the API key for temporal can't be read; the last one is used", "error", wording.Line(err.Error()))
		} else if p.APIKey != "" {
			key = p.APIKey
		}
		return key, nil
	}
}

// keyEvery is how long an API key is used before the file is read again.
const keyEvery = 5 * time.Second

// renewing has connections shown the certificate that is in the files of
// TEMPORAL_TLS_CLIENT_… when they are made, and not when the program began.
func (c *Config) renewing(t *tls.Config, log *slog.Logger) error {
	if t == nil || len(t.Certificates) == 0 {
		return nil
	}
	profile, err := c.profile()
	if err != nil {
		return err
	}
	if profile.TLS == nil || profile.TLS.ClientCertPath == "" || profile.TLS.ClientKeyPath == "" {
		return nil // the certificate itself is in the settings
	}
	first, cert, key := t.Certificates[0], profile.TLS.ClientCertPath, profile.TLS.ClientKeyPath
	var mu sync.Mutex
	t.Certificates, t.GetClientCertificate = nil, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if now, err := tls.LoadX509KeyPair(cert, key); err == nil {
			first = now
		} else {
			log.Error("the certificate for temporal can't be read; the last good one is shown", "error", wording.Line(err.Error()))
		}
		shown := first
		return &shown, nil
	}
	return nil
}

// openRing opens the keys. Without any, what is encrypted is waited for all the
// same.
func (c *Config) openRing() (*codec.Ring, error) {
	if c.Temporal.Codec == "" {
		return &codec.Ring{}, nil
	}
	ring, err := codec.Open(c.Temporal.Codec)
	if err != nil {
		return nil, fmt.Errorf("temporal.codec: %w", err)
	}
	return ring, nil
}

// watchRing looks at the file of keys until ctx ends, so that a broken one is
// noticed while the last good keys count.
func (p *parts) watchRing(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		why := ""
		if err := p.ring.Broken(); err != nil {
			why = wording.Line(err.Error())
		}
		if why != said && why != "" {
			p.log.Error("codec keys can't be read; the last good ones are in force", "error", why)
		}
		said = why
	}
}

// askRing says which keys are in force. A broken file is no reason not to work.
func (p *parts) askRing(context.Context) (string, error) {
	return inForce(p.ring.Broken())
}

// mend says what to do about a connection that isn't made, by what gRPC and
// TLS say of it.
func (c *Config) mend(address, why string) string {
	for _, m := range []struct{ sign, hint string }{
		{"certificate has expired or is not yet valid", "the certificate that Temporal shows has run out: have it renewed; or this machine's clock is wrong"},
		{"certificate is valid for", "name Temporal as its certificate does, in TEMPORAL_ADDRESS or in TEMPORAL_TLS_SERVER_NAME"},
		{"certificate signed by unknown authority", "name the CA that Temporal's certificate is signed by in TEMPORAL_TLS_SERVER_CA_CERT_PATH"},
		{"tls: expired certificate", "hallpass's own certificate has run out: renew TEMPORAL_TLS_CLIENT_CERT_PATH"},
		{"remote error: tls", "Temporal doesn't take hallpass's own certificate: look at TEMPORAL_TLS_CLIENT_CERT_PATH"},
		{"does not look like a TLS handshake", "Temporal has no TLS at this address: leave TEMPORAL_TLS… out, or name the address that has"},
	} {
		if strings.Contains(why, m.sign) {
			return m.hint
		}
	}
	switch {
	case c.Temporal.Address == "":
		return "is this where it is? It is what TEMPORAL_ADDRESS or the profile file says"
	case onThisMachine(address) && strings.Contains(why, "connection refused"):
		return "start everything on this machine with: hallpass dev"
	}
	return "with temporal.address set, hallpass goes there without TLS; where there is TLS, leave it out and set TEMPORAL_ADDRESS and TEMPORAL_TLS…"
}

// onThisMachine says whether nothing that is sent to an address leaves the machine.
func onThisMachine(address string) bool {
	host, _, _ := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// cause is what is behind an error of gRPC's, which wraps it several times in
// words about itself.
func cause(err error) string {
	s := wording.Line(err.Error())
	for _, lead := range []string{"desc = ", "Error while dialing: "} {
		if _, rest, ok := strings.Cut(s, lead); ok {
			s = rest
		}
	}
	return strings.TrimPrefix(strings.TrimRight(s, `"`), `"transport: `)
}

// profile says how to reach Temporal: by the configuration where it names an
// address, and else by the TEMPORAL_* variables and the profile file, as every
// other Temporal tool does. It reads no certificate.
func (c *Config) profile() (p envconfig.ClientConfigProfile, err error) {
	if p.Address = c.Temporal.Address; p.Address == "" {
		if p, err = envconfig.LoadClientConfigProfile(envconfig.LoadClientConfigProfileOptions{EnvLookup: variables(c.getenv)}); err != nil {
			return p, fmt.Errorf("read the TEMPORAL_* settings: %w", err)
		}
	}
	p.Address = cmp.Or(p.Address, client.DefaultHostPort)
	p.Namespace = cmp.Or(c.Temporal.Namespace, p.Namespace, client.DefaultNamespace)
	return p, nil
}

// Transport is what the commands and the service talk to Temporal with: cl, a
// client of this configuration's. For recall see transport.Temporal.
func (c *Config) Transport(cl client.Client, recall func(context.Context, string) (access.Status, error)) *transport.Temporal {
	p, _ := c.profile() // cl was made by it
	return &transport.Temporal{Client: cl, Address: p.Address, Recall: recall}
}

// clientOptions are what the profile says, with the certificates that it names.
func (c *Config) clientOptions() (o client.Options, err error) {
	p, err := c.profile()
	if err != nil {
		return o, err
	}
	if o, err = p.ToClientOptions(envconfig.ToClientOptionsRequest{}); err != nil {
		return o, fmt.Errorf("read the TEMPORAL_* settings: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	// Shown in the Temporal UI, and no more than a hint.
	o.Identity = fmt.Sprintf("hallpass@%s:%d", host, os.Getpid())
	return o, nil
}

func (c *Config) getenv(name string) string {
	if c.env == nil {
		return os.Getenv(name)
	}
	return c.env(name)
}

// variables are the environment in the form that envconfig takes.
type variables func(string) string

// LookupEnv takes an empty variable for none.
func (l variables) LookupEnv(name string) (string, bool) {
	v := l(name)
	return v, v != ""
}

// Environ lists the variables of the process. envconfig goes through them for
// TEMPORAL_GRPC_META_*, whose names it can't know.
func (l variables) Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(pair string) bool {
		name, value, _ := strings.Cut(pair, "=")
		return l(name) != value
	})
}

// Waiting between two tries at something that is down.
const (
	firstWait = 200 * time.Millisecond
	longWait  = 15 * time.Second
)

// keepTrying calls f until it succeeds, ctx ends, or it fails in a way that
// waiting can't mend. It logs each failure and when the next try will be.
func keepTrying(ctx context.Context, log *slog.Logger, what string, f func(context.Context) error) error {
	for wait := firstWait; ; wait = min(2*wait, longWait) {
		err := f(ctx)
		if err == nil || ctx.Err() != nil || access.CodeOf(err) != access.CodeUnavailable {
			return err
		}
		log.Warn("waiting for "+what, "error", err.Error(), "hint", access.HintOf(err), "again_in", wait.String())
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// register adds the search attributes that the namespace hasn't got. Workers
// need them: a workflow that sets one that isn't there can't go on. Where
// Temporal doesn't let us, the error says what an operator has to do. unseen says
// why nobody knows whether they are there, "" if that is known, or searches found
// them. An error that is an anew wants another client: this one was dialled with
// what there was to show then.
func (c *Config) register(ctx context.Context, cl client.Client, log *slog.Logger) (unseen string, err error) {
	profile, err := c.profile()
	if err != nil {
		return "", err
	}
	namespace := profile.Namespace
	_, err = cl.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	var absent *serviceerror.NamespaceNotFound
	if errors.As(err, &absent) {
		return "", noNamespace(profile)
	}
	if turnedAway(err) {
		return "", anew{c.away(profile, err)}
	}
	if err != nil {
		return "", refused(err, "look at namespace "+namespace)
	}
	have, err := cl.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		err := refused(err, "list search attributes of namespace "+namespace)
		if err.Code == access.CodeUnavailable {
			return "", err
		}
		return searchable(ctx, cl, profile, log) // some clusters let nobody look
	}
	missing := map[string]enumspb.IndexedValueType{}
	for name, typ := range attributes() {
		switch is, ok := have.CustomAttributes[name]; {
		case !ok:
			missing[name] = typ
		case is != typ:
			return "", access.Errorf(access.CodeMalformed, "search attribute %s of namespace %s has type %s, and hallpass needs %s", name, namespace, is, typ).
				WithHint("give hallpass a namespace of its own")
		}
	}
	if len(missing) == 0 {
		return "", nil
	}
	if _, err = cl.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: missing}); err != nil {
		return "", refused(err, "register search attributes in namespace "+namespace).WithHint("%s", command(profile, missing))
	}
	log.Info("registered search attributes", "namespace", namespace, "names", strings.Join(slices.Sorted(maps.Keys(missing)), " "))
	return "", nil
}

// searchable looks by searches whether the search attributes are there: Temporal
// refuses a search for one that isn't, or whose type doesn't go with what is searched
// for. It is no proof of the type (a Text is found by what finds a Keyword). And it
// is one of nothing where Temporal refuses each search, so it is tried with an
// attribute that every namespace has. Somebody may be adding ours, so it is worth to
// ask again.
func searchable(ctx context.Context, cl client.Client, profile envconfig.ClientConfigProfile, log *slog.Logger) (unseen string, err error) {
	search := func(query string) (refuses, err error) {
		_, err = cl.WorkflowService().ListWorkflowExecutions(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: profile.Namespace, PageSize: 1, Query: query})
		var invalid *serviceerror.InvalidArgument
		if errors.As(err, &invalid) {
			return err, nil
		}
		return nil, err
	}
	blind := func(err error) (string, error) {
		why := refused(err, "search namespace "+profile.Namespace)
		if why.Code == access.CodeUnavailable {
			return "", why
		}
		log.Warn("can't see which search attributes there are", "namespace", profile.Namespace, "error", why.Message, "needed", command(profile, attributes()))
		return "whether it has the search attributes can't be seen: " + why.Message, nil
	}
	missing := map[string]enumspb.IndexedValueType{}
	for name, typ := range attributes() {
		query := name + " = 'hallpass'"
		if typ == enumspb.INDEXED_VALUE_TYPE_DATETIME {
			query = name + " < '2000-01-01T00:00:00Z'"
		}
		switch refuses, err := search(query); {
		case err != nil:
			return blind(err)
		case refuses != nil:
			missing[name] = typ
		}
	}
	if len(missing) == 0 {
		return "", nil
	}
	if refuses, err := search("WorkflowType = 'hallpass'"); err != nil || refuses != nil {
		return blind(cmp.Or(err, refuses))
	}
	return "", access.Errorf(access.CodeUnavailable, "namespace %s lacks search attributes, or has them with another type: %s",
		profile.Namespace, strings.Join(slices.Sorted(maps.Keys(missing)), ", ")).WithHint("%s", command(profile, missing))
}

// cloud says whether it is Temporal Cloud, where namespaces and search attributes
// are made with a tool of its own.
func cloud(p envconfig.ClientConfigProfile) bool {
	host, _, _ := net.SplitHostPort(p.Address)
	return strings.HasSuffix(host, ".tmprl.cloud") || strings.HasSuffix(host, ".api.temporal.io")
}

func noNamespace(p envconfig.ClientConfigProfile) *access.Error {
	err := access.Errorf(access.CodeNotFound, "temporal has no namespace %q", p.Namespace)
	if cloud(p) {
		return err.WithHint("tcld namespace list shows those of your account; their names end in .ACCOUNT")
	}
	return err.WithHint("temporal operator namespace create --namespace %s --retention 30d", p.Namespace)
}

// refused classifies an error of Temporal's: CodeForbidden where it will say
// the same again, CodeUnavailable where it may not.
func refused(err error, doing string) *access.Error {
	code := access.CodeUnavailable
	var (
		denied        *serviceerror.PermissionDenied
		unimplemented *serviceerror.Unimplemented
		invalid       *serviceerror.InvalidArgument
	)
	if errors.As(err, &denied) || errors.As(err, &unimplemented) || errors.As(err, &invalid) {
		code = access.CodeForbidden
	}
	return access.Errorf(code, "%s: %s", doing, wording.Line(err.Error()))
}

// command is what an operator types to add the attributes.
func command(p envconfig.ClientConfigProfile, missing map[string]enumspb.IndexedValueType) string {
	line, one := "temporal operator search-attribute create --namespace %s", " --name %s --type %s"
	if cloud(p) {
		line, one = "tcld namespace search-attributes add --namespace %s", " --search-attribute %s=%s"
	}
	var b strings.Builder
	fmt.Fprintf(&b, line, p.Namespace)
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		fmt.Fprintf(&b, one, name, missing[name])
	}
	return b.String()
}
