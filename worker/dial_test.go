package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/contrib/envconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"hallpass/access"
)

// temporalThat is the address of a Temporal that refuses calls, by method, or has
// nothing to say. Of a search the method has what is searched for behind it.
func temporalThat(t *testing.T, refuse func(method string, md metadata.MD) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var asks emptypb.Empty
		if err := stream.RecvMsg(&asks); err != nil {
			return err
		}
		name, _ := grpc.MethodFromServerStream(stream)
		var search workflowservice.ListWorkflowExecutionsRequest
		if strings.HasSuffix(name, "/ListWorkflowExecutions") && proto.Unmarshal(asks.ProtoReflect().GetUnknown(), &search) == nil {
			name += " " + strings.Fields(search.Query)[0]
		}
		md, _ := metadata.FromIncomingContext(stream.Context())
		if err := refuse(path.Base(name), md); err != nil {
			return err
		}
		return stream.SendMsg(&emptypb.Empty{})
	}))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// keyed is the address of one that knows one API key.
func keyed(t *testing.T, key string) string {
	return temporalThat(t, func(_ string, md metadata.MD) error {
		if got := md.Get("authorization"); len(got) != 1 || got[0] != "Bearer "+key {
			return status.Error(codes.Unauthenticated, "Jwt is expired")
		}
		return nil
	})
}

// Where nobody may look which search attributes there are, they are searched for;
// where that isn't allowed either, it is said that nobody knows.
func TestSearchAttributesThatNobodyMaySee(t *testing.T) {
	denied := status.Error(codes.PermissionDenied, "Request unauthorized.")
	invalid := status.Error(codes.InvalidArgument, "invalid query")
	for _, tt := range []struct {
		name    string
		refuses map[string]error
		unseen  string
		err     string
		code    access.Code
	}{
		{"they can be searched for", map[string]error{"ListSearchAttributes": denied}, "", "", ""},
		{"no search is taken", map[string]error{"ListSearchAttributes": denied, "ListWorkflowExecutions": invalid},
			"whether it has the search attributes can't be seen: search namespace default: invalid query", "", ""},
		{"one can't", map[string]error{"ListSearchAttributes": denied, access.AttrState: invalid}, "",
			"namespace default lacks search attributes, or has them with another type: HallpassState", access.CodeUnavailable},
		{"they can't", map[string]error{"ListSearchAttributes": denied, access.AttrState: invalid, access.AttrApprovers: invalid, access.AttrExpires: invalid,
			access.AttrRequester: invalid, access.AttrResource: invalid}, "",
			"namespace default lacks search attributes, or has them with another type: HallpassApprovers, HallpassExpires, HallpassRequester, HallpassResource, HallpassState", access.CodeUnavailable},
		{"nobody may search", map[string]error{"ListSearchAttributes": denied, "ListWorkflowExecutions": denied},
			"whether it has the search attributes can't be seen: search namespace default: Request unauthorized.", "", ""},
		{"it goes away", map[string]error{"ListSearchAttributes": denied, "ListWorkflowExecutions": status.Error(codes.Canceled, "gone")}, "", "search namespace default: gone", access.CodeUnavailable},
		{"nobody may even look at the namespace", map[string]error{"DescribeNamespace": denied}, "", "refuses hallpass: Request unauthorized.", access.CodeUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := temporalThat(t, func(method string, _ metadata.MD) error {
				list, what, _ := strings.Cut(method, " ")
				return cmp.Or(tt.refuses[list], tt.refuses[what])
			})
			c := &Config{env: environ(map[string]string{"TEMPORAL_ADDRESS": server, "HOME": t.TempDir()})}
			cl, err := c.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			unseen, err := c.register(t.Context(), cl, quiet)
			if unseen != tt.unseen || (err == nil) != (tt.err == "") || err != nil && (!strings.Contains(err.Error(), tt.err) || access.CodeOf(err) != tt.code) {
				t.Errorf("%q, %v, want %q, %s", unseen, err, tt.unseen, tt.err)
			}
			p := &parts{config: c, log: quiet}
			p.temporal.Store(&cl)
			p.unseen.Store(&unseen)
			if detail, err := p.askTemporal(t.Context()); tt.unseen != "" && (err != nil || !strings.HasSuffix(detail, "namespace default; "+tt.unseen)) {
				t.Errorf("ready says %q, %v", detail, err)
			}
		})
	}
}

func profileFile(t *testing.T, file, key string) {
	t.Helper()
	text := fmt.Sprintf("[profile.ops]\napi_key = %q\nnamespace = \"access.a1b2c\"\n", key)
	if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
		t.Fatal(err)
	}
}

// An API key comes from where every Temporal tool has it; one that is refused is
// said to be, with where to put another, and never shown.
func TestAPIKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "temporal.toml")
	profileFile(t, file, "old-key")
	server := keyed(t, "good-key")
	profile := map[string]string{"TEMPORAL_ADDRESS": server, "TEMPORAL_TLS": "false", "TEMPORAL_CONFIG_FILE": file, "TEMPORAL_PROFILE": "ops"}
	for _, tt := range []struct {
		name string
		env  map[string]string
		hint string
	}{
		{"in the profile file", profile, "the API key in the profile file has run out, isn't known there or isn't for namespace access.a1b2c: put a new one there; it is read again by itself"},
		{"in the environment", map[string]string{"TEMPORAL_ADDRESS": server, "TEMPORAL_TLS": "false", "TEMPORAL_API_KEY": "old-key", "HOME": t.TempDir()},
			"the API key in TEMPORAL_API_KEY has run out, isn't known there or isn't for namespace default: put a new one there and start again"},
		{"nowhere", map[string]string{"TEMPORAL_ADDRESS": server, "HOME": t.TempDir()}, "it wants to know who comes: by an API key, in TEMPORAL_API_KEY or the profile file, or by a certificate, TEMPORAL_TLS_CLIENT_CERT_PATH"},
	} {
		_, err := (&Config{env: environ(tt.env)}).Dial(t.Context())
		want := "temporal at " + server + " refuses hallpass: Jwt is expired"
		if err == nil || err.Error() != want || access.HintOf(err) != tt.hint || access.CodeOf(err) != access.CodeUnavailable {
			t.Errorf("%s: %v\n%s\nwant %s\n%s", tt.name, err, access.HintOf(err), want, tt.hint)
		}
	}
	for name, env := range map[string]map[string]string{
		"in the environment": {"TEMPORAL_ADDRESS": server, "TEMPORAL_TLS": "false", "TEMPORAL_API_KEY": "good-key", "HOME": t.TempDir()},
		"in the profile":     profile,
	} {
		profileFile(t, file, "good-key")
		cl, err := (&Config{env: environ(env)}).Dial(t.Context())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		cl.Close()
	}
}

// A worker comes without a key to a Temporal that tells everybody what it is, and lets
// only some do anything. Once there is one where it says to put it, it goes on.
func TestAPIKeyThatComesLater(t *testing.T) {
	server := temporalThat(t, func(method string, md metadata.MD) error {
		if got := md.Get("authorization"); method != "GetSystemInfo" && (len(got) != 1 || got[0] != "Bearer good-key") {
			return status.Error(codes.Unauthenticated, "Jwt is missing")
		}
		return nil
	})
	file := filepath.Join(t.TempDir(), "temporal.toml")
	profileFile(t, file, "")
	_, c := furnishedConfig(t)
	c.Temporal.Address, c.Temporal.Namespace = "", ""
	c.env = environ(map[string]string{"TEMPORAL_ADDRESS": server, "TEMPORAL_TLS": "false", "TEMPORAL_CONFIG_FILE": file, "TEMPORAL_PROFILE": "ops"})
	log := &syncBuffer{}
	h := &health{}
	p, err := open(t.Context(), c, []string{RoleWorkflows}, h, slog.New(slog.NewJSONHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.close() }()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	go func() {
		for !strings.Contains(log.String(), "in TEMPORAL_API_KEY or the profile file") {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		profileFile(t, file, "good-key")
	}()
	cl, err := p.connect(ctx)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	defer cl.Close()
	p.temporal.Store(nil)
}

// Whoever is turned away is told to look where hallpass looks.
func TestWhereToPutWhatIsMissing(t *testing.T) {
	refusal := status.Error(codes.PermissionDenied, "Request unauthorized.")
	for _, tt := range []struct {
		name    string
		address string
		p       envconfig.ClientConfigProfile
		has     string
		not     []string
	}{
		{"temporal.address", "127.0.0.1:1", envconfig.ClientConfigProfile{}, "with temporal.address set", []string{apiKeyVariable, "profile file"}},
		{"a certificate in a file", "", envconfig.ClientConfigProfile{TLS: &envconfig.ClientConfigTLS{ClientCertPath: "x"}}, "hallpass's own certificate, of TEMPORAL_TLS_CLIENT_CERT_PATH, isn't known there", []string{"who comes"}},
		{"a certificate", "", envconfig.ClientConfigProfile{TLS: &envconfig.ClientConfigTLS{ClientCertData: []byte("x")}}, "hallpass's own certificate, of TEMPORAL_TLS_CLIENT_CERT_PATH, isn't known there", []string{"who comes"}},
		{"TLS alone", "", envconfig.ClientConfigProfile{TLS: &envconfig.ClientConfigTLS{}}, "it wants to know who comes", nil},
	} {
		c := &Config{env: environ(nil)}
		c.Temporal.Address = tt.address
		hint := c.away(tt.p, refusal).Hint
		if !strings.Contains(hint, tt.has) {
			t.Errorf("%s: %s", tt.name, hint)
		}
		for _, not := range tt.not {
			if strings.Contains(hint, not) {
				t.Errorf("%s: %s", tt.name, hint)
			}
		}
	}
}

// A key that is replaced in the profile file is used soon after, and one that can't
// be read changes nothing.
func TestAPIKeyIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "temporal.toml")
	c := &Config{env: environ(map[string]string{"TEMPORAL_ADDRESS": "127.0.0.1:1", "TEMPORAL_CONFIG_FILE": file, "TEMPORAL_PROFILE": "ops"})}
	log := &syncBuffer{}
	synctest.Test(t, func(t *testing.T) {
		profileFile(t, file, "first")
		key := c.apiKey(slog.New(slog.NewJSONHandler(log, nil)))
		want := func(want string) {
			t.Helper()
			if got, err := key(context.Background()); got != want || err != nil {
				t.Errorf("%q, %v, want %q", got, err, want)
			}
		}
		want("first")
		profileFile(t, file, "second")
		want("first")
		<-time.After(keyEvery)
		want("second")
		if err := os.WriteFile(file, []byte("no [toml"), 0o600); err != nil {
			t.Fatal(err)
		}
		<-time.After(keyEvery)
		want("second")
	})
	if !strings.Contains(log.String(), "the last one is used") || strings.Contains(log.String(), "second") {
		t.Error(log.String())
	}
}

// Temporal Cloud has a tool of its own for namespaces and search attributes.
func TestHintsForTemporalCloud(t *testing.T) {
	state := map[string]enumspb.IndexedValueType{access.AttrState: enumspb.INDEXED_VALUE_TYPE_KEYWORD, access.AttrExpires: enumspb.INDEXED_VALUE_TYPE_DATETIME}
	for address, is := range map[string]bool{
		"access.a1b2c.tmprl.cloud:7233": true, "us-west-2.aws.api.temporal.io:7233": true, "aws-us-west-2.region.tmprl.cloud:7233": true,
		"temporal.example.com:7233": false, "tmprl.cloud.example.com:7233": false, "127.0.0.1:7233": false, "": false,
	} {
		p := envconfig.ClientConfigProfile{Address: address, Namespace: "access.a1b2c"}
		add, namespace := "temporal operator search-attribute create --namespace access.a1b2c --name HallpassExpires --type Datetime --name HallpassState --type Keyword",
			"temporal operator namespace create --namespace access.a1b2c --retention 30d"
		if is {
			add, namespace = "tcld namespace search-attributes add --namespace access.a1b2c --search-attribute HallpassExpires=Datetime --search-attribute HallpassState=Keyword",
				"tcld namespace list shows those of your account; their names end in .ACCOUNT"
		}
		if got := command(p, state); got != add {
			t.Errorf("%s: %s", address, got)
		}
		if got := noNamespace(p).Hint; got != namespace {
			t.Errorf("%s: %s", address, got)
		}
	}
}
