package topology

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"hallpass/testsuite/postgrestest"
	"hallpass/testsuite/process"
)

// TestStartUpSaysWhatIsWrong starts a worker with one thing wrong. It either
// ends, and its last line says what is wrong and what to do, or it waits, and
// its log and /ready do.
func TestStartUpSaysWhatIsWrong(t *testing.T) {
	w := furnish(t)
	w.furnishVault(w.database())
	w.temporal([]string{"history", "matching", "frontend", "worker"})
	for _, role := range []string{"history", "matching", "frontend", "worker"} {
		w.start(role)
	}
	w.register()
	now := time.Now()
	authority := w.authority("tls-ca")
	other := newAuthority(t, filepath.Join(t.TempDir(), "other"))
	expired := authority.leaf(t, now.Add(-time.Hour), "127.0.0.1")
	elsewhere := authority.leaf(t, now.Add(time.Hour), "10.1.2.3")
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	w.hallpass("once", "workflows")
	w.start("once")
	w.ready("once") // has made the search attributes
	w.programs["once"].process.Kill()
	wrong := filepath.Join(t.TempDir(), "secret_id")
	if err := os.WriteFile(wrong, []byte("not-the-secret-id"), 0o600); err != nil {
		t.Fatal(err)
	}
	transit := "HALLPASS_ISSUERS_SSH_KEY=vault:transit/ca"

	for _, tt := range []struct {
		name  string
		role  string // "": workflows
		env   []string
		spoil func(t *testing.T)
		ends  bool
		want  []string
	}{
		{name: "wrong address", env: []string{"TEMPORAL_ADDRESS=127.0.0.1:1"},
			want: []string{"temporal at 127.0.0.1:1 doesn't answer: ", "connection refused", "TEMPORAL_ADDRESS"}},
		{name: "no such host", env: []string{"TEMPORAL_ADDRESS=temporal.invalid:7233"},
			want: []string{"temporal at temporal.invalid:7233 doesn't answer: ", "TEMPORAL_ADDRESS"}},
		{name: "Temporal's certificate has expired", env: []string{"TEMPORAL_ADDRESS=" + shows(t, expired)},
			want: []string{"certificate has expired or is not yet valid", "have it renewed"}},
		{name: "Temporal's certificate is another's", env: []string{"TEMPORAL_ADDRESS=" + shows(t, elsewhere)},
			want: []string{"certificate is valid for 10.1.2.3, not 127.0.0.1", "TEMPORAL_TLS_SERVER_NAME"}},
		{name: "our certificate has expired", env: expired.files(t),
			want: []string{"tls: expired certificate", "renew TEMPORAL_TLS_CLIENT_CERT_PATH"}},
		{name: "our certificate is of another CA", env: other.leaf(t, now.Add(time.Hour), "hallpass").files(t),
			want: []string{"tls: ", "TEMPORAL_TLS_CLIENT_CERT_PATH"}},
		{name: "another CA is trusted", env: []string{"TEMPORAL_TLS_SERVER_CA_CERT_PATH=" + other.file},
			want: []string{"certificate signed by unknown authority", "TEMPORAL_TLS_SERVER_CA_CERT_PATH"}},
		{name: "no TLS there", env: []string{"TEMPORAL_ADDRESS=" + strings.TrimPrefix(plain.URL, "http://")},
			want: []string{"first record does not look like a TLS handshake", "leave TEMPORAL_TLS… out"}},
		{name: "no TLS here", env: []string{"HALLPASS_TEMPORAL_ADDRESS=" + w.frontend},
			want: []string{"temporal at " + w.frontend + " doesn't answer", "without TLS"}},
		{name: "a certificate that isn't there", env: []string{"TEMPORAL_TLS_CLIENT_CERT_PATH=" + w.dir + "/not.pem"}, ends: true,
			want: []string{"TEMPORAL_*", "not.pem"}},
		{name: "wrong namespace", env: []string{"HALLPASS_TEMPORAL_NAMESPACE=holpass"}, ends: true,
			want: []string{`temporal has no namespace "holpass"`, "temporal operator namespace create --namespace holpass"}},
		{name: "search attribute of another type", env: []string{"HALLPASS_TEMPORAL_NAMESPACE=taken"}, ends: true,
			spoil: w.taken, want: []string{"search attribute HallpassState of namespace taken has type Int, and hallpass needs Keyword", "a namespace of its own"}},
		{name: "search attributes are missing, and nobody may register them", ends: true,
			env: []string{"HALLPASS_TEMPORAL_NAMESPACE=bare", "TEMPORAL_ADDRESS=" + w.denying("AddSearchAttributes")}, spoil: w.namespace("bare"),
			want: []string{"register search attributes in namespace bare: Request unauthorized.",
				"temporal operator search-attribute create --namespace bare --name HallpassApprovers --type KeywordList"}},
		{name: "search attributes are missing, and nobody may look",
			env: []string{"HALLPASS_TEMPORAL_NAMESPACE=blind", "TEMPORAL_ADDRESS=" + w.denying("ListSearchAttributes")}, spoil: w.namespace("blind"),
			want: []string{"namespace blind lacks search attributes, or has them with another type: HallpassApprovers, HallpassExpires, HallpassRequester, HallpassResource, HallpassState",
				"temporal operator search-attribute create --namespace blind --name HallpassApprovers --type KeywordList"}},
		{name: "an API key that is refused", env: []string{"TEMPORAL_ADDRESS=" + w.keyed("good"), "TEMPORAL_API_KEY=bad"},
			want: []string{"refuses hallpass: Jwt is expired", "the API key in TEMPORAL_API_KEY has run out, isn't known there or isn't for namespace hallpass"}},
		{name: "no API key", env: []string{"TEMPORAL_ADDRESS=" + w.keyed("good")},
			want: []string{"refuses hallpass: Jwt is expired", "by an API key, in TEMPORAL_API_KEY or the profile file"}},
		{name: "a build without a name", env: []string{"HALLPASS_TEMPORAL_DEPLOYMENT=hall.pass"}, ends: true, want: []string{"HALLPASS_TEMPORAL_DEPLOYMENT", "is no name of a deployment"}},

		{name: "PostgreSQL elsewhere", env: []string{"HALLPASS_AUDIT_DATABASE=postgres://hallpass@127.0.0.1:1/audit"}, ends: true,
			want: []string{"PostgreSQL can't be reached", "127.0.0.1:1"}},
		{name: "PostgreSQL's certificate has expired", ends: true,
			env:  []string{"HALLPASS_AUDIT_DATABASE=postgres://hallpass@" + postgresShows(t, expired) + "/audit?sslmode=verify-full&sslrootcert=" + w.dir + "/tls/ca.pem"},
			want: []string{"PostgreSQL can't be reached", "certificate has expired or is not yet valid"}},
		{name: "PostgreSQL's certificate is of another CA", ends: true,
			env:  []string{"HALLPASS_AUDIT_DATABASE=" + strings.Replace(w.env["HALLPASS_AUDIT_DATABASE"], w.dir+"/tls/ca.pem", other.file, 1) + "&sslmode=verify-full"},
			want: []string{"PostgreSQL can't be reached", "certificate signed by unknown authority"}},
		{name: "PostgreSQL doesn't answer", ends: true,
			env:  []string{"HALLPASS_AUDIT_DATABASE=postgres://hallpass@" + mute(t) + "/audit?connect_timeout=1"},
			want: []string{"PostgreSQL can't be reached", "deadline exceeded"}},
		{name: "PostgreSQL read-only", ends: true, spoil: w.sql("ALTER DATABASE audit SET default_transaction_read_only = on", "ALTER DATABASE audit RESET default_transaction_read_only"),
			want: []string{"the database of the audit log is read-only"}},
		{name: "PostgreSQL forgets", ends: true, spoil: w.sql("ALTER ROLE hallpass_writer SET synchronous_commit = off", "ALTER ROLE hallpass_writer RESET synchronous_commit"),
			want: []string{"synchronous_commit"}},
		{name: "wrong password", env: []string{"PGPASSFILE=", "PGPASSWORD=wrong"}, ends: true, want: []string{"password authentication failed"}},
		{name: "a newer schema", ends: true, spoil: w.schema("99"),
			want: []string{"audit log has schema version 99, this hallpass knows", "use the newer hallpass"}},
		{name: "a changed schema", ends: true, spoil: w.audit("ALTER TABLE hallpass_audit.serials ADD COLUMN more int", "ALTER TABLE hallpass_audit.serials DROP COLUMN more"),
			want: []string{"the tables of the audit log have been changed"}},
		{name: "an old schema, and no right to bring it up to date", ends: true, spoil: w.old,
			want: []string{"the audit log is of schema version 3 and has to become 5, which this user of the database may not do", "start a worker once as the owner of its tables"}},
		{name: "PostgreSQL full", spoil: w.full,
			want: []string{"no space left for the audit log", "make room"}},
		{name: "another key", env: []string{"HALLPASS_AUDIT_KEY=" + w.dir + "/ssh-ca/users"}, ends: true, want: []string{"audit"}},
		{name: "no CA key", role: "issuer:ssh", env: []string{"HALLPASS_ISSUERS_SSH_KEY=file:" + w.dir + "/not-here"}, ends: true, want: []string{"not-here"}},
		{name: "a KMS that isn't there", role: "issuer:ssh",
			env:  []string{"HALLPASS_ISSUERS_SSH_KEY=vault:transit/ca", "HALLPASS_ISSUERS_VAULT_ADDRESS=https://127.0.0.1:1", "HALLPASS_ISSUERS_VAULT_SECRET_ID_FILE=" + w.dir + "/postgres/admin"},
			want: []string{"vault at https://127.0.0.1:1 can't be reached"}},
		{name: "a KMS whose certificate has expired", role: "issuer:ssh", env: []string{transit, "HALLPASS_ISSUERS_VAULT_ADDRESS=https://" + shows(t, expired)},
			want: []string{"vault at https://127.0.0.1:", "certificate has expired or is not yet valid", "have it renewed"}},
		{name: "a KMS whose certificate is of another CA", role: "issuer:ssh", env: []string{transit, "HALLPASS_ISSUERS_VAULT_CA=" + other.file},
			want: []string{"vault at https://127.0.0.1:", "certificate signed by unknown authority", "issuers.vault.ca"}},
		{name: "the service's certificate has expired", role: "service", env: expired.served(t), ends: true,
			want: []string{"TLS certificate ", "has expired, at ", "have it renewed"}},
		{name: "a KMS that refuses the login", role: "issuer:ssh", env: []string{transit, "HALLPASS_ISSUERS_VAULT_SECRET_ID_FILE=" + wrong}, ends: true,
			want: []string{"vault", "invalid role or secret ID"}},
		{name: "a KMS that refuses the key", role: "issuer:ssh", env: []string{transit}, ends: true,
			want: []string{"vault:transit/ca", "permission denied"}},
		{name: "a KMS that is sealed", role: "issuer:ssh", env: []string{transit}, spoil: w.sealed, want: []string{"vault is sealed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.spoil != nil {
				tt.spoil(t)
			}
			role := tt.role
			if role == "" {
				role = "workflows"
			}
			w.hallpass("spoilt", role, tt.env...)
			p := w.programs["spoilt"]
			said := func(text string) error {
				for _, want := range tt.want {
					if !strings.Contains(text, want) {
						return fmt.Errorf("it doesn't say %q:\n%s", want, tail(text, 12))
					}
				}
				return nil
			}
			if tt.ends {
				out, err := p.command().CombinedOutput()
				if err == nil {
					t.Fatal("it doesn't end")
				}
				// The reason is the last thing that it says, in one line.
				if err := said(tail(strings.TrimSuffix(string(out), "\n"), 1)); err != nil {
					t.Error(err)
				}
				return
			}
			running, err := process.Start(p.command(), func(line string) bool { return strings.Contains(line, p.began) })
			if err != nil {
				t.Fatal(err)
			}
			defer running.Kill()
			w.poll("it to say so in its log", func() error { return said(running.Output()) })
			w.poll("it to say so when asked", func() error {
				answer, err := http.Get("http://" + p.health + "/ready")
				if err != nil {
					return err
				}
				defer func() { _ = answer.Body.Close() }()
				body, err := io.ReadAll(answer.Body)
				if err != nil {
					return err
				}
				if answer.StatusCode == http.StatusOK {
					t.Fatalf("it is ready: %s", body)
				}
				return said(strings.ReplaceAll(string(body), `\"`, `"`))
			})
		})
	}
}

// namespace makes one, without search attributes.
func (w *world) namespace(name string) func(*testing.T) {
	return func(t *testing.T) {
		_, err := w.dial().WorkflowService().RegisterNamespace(t.Context(), &workflowservice.RegisterNamespaceRequest{
			Namespace: name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// taken makes a namespace in which somebody else has our search attributes.
func (w *world) taken(t *testing.T) {
	w.namespace("taken")(t)
	w.poll("the namespace", func() error {
		_, err := w.dial().OperatorService().AddSearchAttributes(t.Context(), &operatorservice.AddSearchAttributesRequest{
			Namespace: "taken", SearchAttributes: map[string]enumspb.IndexedValueType{"HallpassState": enumspb.INDEXED_VALUE_TYPE_INT},
		})
		return err
	})
}

// sealed seals Vault for a while.
func (w *world) sealed(t *testing.T) {
	w.vault.Seal(t)
	t.Cleanup(func() { w.vault.Unseal(t) })
}

// old makes the audit log one of an older version, which lacks something.
func (w *world) old(t *testing.T) {
	index := w.pg.Value(t, "audit", "SELECT pg_get_indexdef('hallpass_audit.events_past'::regclass)")
	w.audit("DROP INDEX hallpass_audit.events_past", index+"; ALTER INDEX hallpass_audit.events_past OWNER TO hallpass")(t)
	w.schema("3")(t)
}

// full has the audit log on a disk without room.
func (w *world) full(t *testing.T) {
	if os.Geteuid() != 0 {
		process.Unable(t, "it takes root to mount a small disk")
	}
	dir, err := os.MkdirTemp("", "small")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	run := func(name string, args ...string) {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	run("mount", "-t", "tmpfs", "-o", "size=40m", "hallpass-test", dir)
	t.Cleanup(func() { run("umount", dir) })
	postgrestest.Give(t, dir)
	alone := "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'audit'"
	w.pg.Exec(t, "postgres", "CREATE TABLESPACE small LOCATION '"+dir+"'")
	w.pg.Exec(t, "postgres", alone)
	w.pg.Exec(t, "postgres", "ALTER DATABASE audit SET TABLESPACE small")
	t.Cleanup(func() {
		w.pg.Exec(t, "audit", "DROP TABLE filler")
		w.pg.Exec(t, "postgres", alone)
		w.pg.Exec(t, "postgres", "ALTER DATABASE audit SET TABLESPACE pg_default")
		w.pg.Exec(t, "postgres", "DROP TABLESPACE small")
	})
	w.pg.Exec(t, "audit", `CREATE TABLE filler (t text);
		ALTER TABLE filler ALTER COLUMN t SET STORAGE PLAIN;
		DO $$ BEGIN LOOP INSERT INTO filler SELECT repeat('x', 7000) FROM generate_series(1, 100); END LOOP; EXCEPTION WHEN disk_full THEN NULL; END $$`)
}

// TestAPIKeyIsRenewed has a worker come with the API key of a profile file. One that
// runs out is replaced there, and the worker goes on.
func TestAPIKeyIsRenewed(t *testing.T) {
	t.Parallel()
	w := furnish(t)
	w.temporal([]string{"history", "matching", "frontend", "worker"})
	for _, role := range []string{"history", "matching", "frontend", "worker"} {
		w.start(role)
	}
	w.register()
	path := filepath.Join(t.TempDir(), "temporal.toml")
	key := func(key string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("[profile.ops]\napi_key = \""+key+"\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var good atomic.Value
	good.Store("first")
	key("first")
	w.hallpass("keyed", "workflows", "TEMPORAL_ADDRESS="+w.through(func(_ string, md metadata.MD) error { return knows(md, good.Load().(string)) }),
		"TEMPORAL_CONFIG_FILE="+path, "TEMPORAL_PROFILE=ops")
	w.start("keyed")
	w.ready("keyed")
	good.Store("second")
	w.poll("it to say that the key isn't taken", func() error {
		answer, err := http.Get("http://" + w.programs["keyed"].health + "/ready")
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		body, err := io.ReadAll(answer.Body)
		if want := "the API key in the profile file has run out"; err == nil && (answer.StatusCode == http.StatusOK || !strings.Contains(string(body), want)) {
			err = fmt.Errorf("%s: %s", answer.Status, body)
		}
		return err
	})
	key("second")
	w.ready("keyed")
}

// keyed is the address of something that passes on to Temporal what comes with an
// API key.
func (w *world) keyed(key string) string {
	return w.through(func(_ string, md metadata.MD) error { return knows(md, key) })
}

func knows(md metadata.MD, key string) error {
	if got := md.Get("authorization"); len(got) != 1 || got[0] != "Bearer "+key {
		return status.Error(codes.Unauthenticated, "Jwt is expired")
	}
	return nil
}

// denying is the address of something that passes on to Temporal what is said
// to it, and says for Temporal that one method isn't allowed.
func (w *world) denying(method string) string {
	return w.through(func(name string, _ metadata.MD) error {
		if strings.HasSuffix(name, "/"+method) {
			return status.Error(codes.PermissionDenied, "Request unauthorized.")
		}
		return nil
	})
}

// through is the address of something that passes on to Temporal what is allowed.
func (w *world) through(allowed func(method string, md metadata.MD) error) string {
	w.t.Helper()
	pair, err := tls.LoadX509KeyPair(w.dir+"/temporal/temporal.pem", w.dir+"/temporal/temporal.key")
	if err != nil {
		w.t.Fatal(err)
	}
	to, err := grpc.NewClient(w.frontend, grpc.WithTransportCredentials(credentials.NewTLS(w.tls())))
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})), grpc.ForceServerCodecV2(raw{}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			name, _ := grpc.MethodFromServerStream(stream)
			md, _ := metadata.FromIncomingContext(stream.Context())
			if err := allowed(name, md); err != nil {
				return err
			}
			var in, out []byte
			if err := stream.RecvMsg(&in); err != nil {
				return err
			}
			if err := to.Invoke(metadata.NewOutgoingContext(stream.Context(), md), name, &in, &out, grpc.ForceCodecV2(raw{})); err != nil {
				return err
			}
			return stream.SendMsg(&out)
		}))
	go func() { _ = s.Serve(l) }()
	w.t.Cleanup(func() { s.Stop(); _ = to.Close() })
	return l.Addr().String()
}

// raw passes messages on as they are.
type raw struct{}

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (raw) Name() string { return "raw" }

// sql runs a statement as PostgreSQL's administrator, and another at the end
// of the test.
func (w *world) sql(do, undo string) func(*testing.T) { return w.on("postgres", do, undo) }

func (w *world) audit(do, undo string) func(*testing.T) { return w.on("audit", do, undo) }

func (w *world) on(database, do, undo string) func(*testing.T) {
	return func(t *testing.T) {
		w.pg.Exec(t, database, do)
		t.Cleanup(func() { w.pg.Exec(t, database, undo) })
	}
}

// schema makes the audit log say that it is of another version.
func (w *world) schema(version string) func(*testing.T) {
	return w.audit(fmt.Sprintf(`CREATE TABLE before AS SELECT obj_description('hallpass_audit'::regnamespace) AS text;
		COMMENT ON SCHEMA hallpass_audit IS 'audit log of hallpass, schema version %s'`, version),
		`DO $$ BEGIN EXECUTE format('COMMENT ON SCHEMA hallpass_audit IS %L', (SELECT text FROM before)); END $$; DROP TABLE before`)
}

// authority is a TLS CA.
type authority struct {
	file        string
	certificate *x509.Certificate
	key         any
}

// authority is the one that setup.sh made.
func (w *world) authority(dir string) authority {
	w.t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(w.dir, dir, "ca.pem"), filepath.Join(w.dir, dir, "ca.key"))
	if err != nil {
		w.t.Fatal(err)
	}
	return authority{certificate: pair.Leaf, key: pair.PrivateKey}
}

func newAuthority(t *testing.T, file string) authority {
	t.Helper()
	l := authority{}.leaf(t, time.Now().Add(time.Hour), "another CA")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.pair.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	return authority{file, l.pair.Leaf, l.pair.PrivateKey}
}

type leaf struct{ pair tls.Certificate }

// leaf makes a certificate for a name or an address; the zero authority makes
// one that signs itself.
func (a authority) leaf(t *testing.T, until time.Time, name string) leaf {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: until.Add(-24 * time.Hour), NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	}
	parent, signer := a.certificate, a.key
	if parent == nil {
		template.IsCA = true
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return leaf{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parsed}}
}

// files writes the certificate and its key, and gives the variables that name
// them.
func (l leaf) files(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(l.pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: l.pair.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"TEMPORAL_TLS_CLIENT_CERT_PATH=" + dir + "/cert.pem", "TEMPORAL_TLS_CLIENT_KEY_PATH=" + dir + "/key.pem"}
}

// served is files in the variables of the service's own certificate.
func (l leaf) served(t *testing.T) []string {
	t.Helper()
	var env []string
	for _, pair := range l.files(t) {
		env = append(env, strings.NewReplacer("TEMPORAL_TLS_CLIENT_CERT_PATH", "HALLPASS_SERVICE_CERT", "TEMPORAL_TLS_CLIENT_KEY_PATH", "HALLPASS_SERVICE_KEY").Replace(pair))
	}
	return env
}

// shows is the address of something that shows a certificate to all who come.
func shows(t *testing.T, l leaf) string { return showsAfter(t, l, func(net.Conn) error { return nil }) }

// postgresShows does that as PostgreSQL does, which is asked for TLS first.
func postgresShows(t *testing.T, l leaf) string {
	return showsAfter(t, l, func(conn net.Conn) error {
		if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
			return err
		}
		_, err := conn.Write([]byte("S"))
		return err
	})
}

// mute is the address of something that takes connections and says nothing.
func mute(t *testing.T) string {
	return showsAfter(t, leaf{}, func(conn net.Conn) error {
		_, _ = io.Copy(io.Discard, conn)
		return io.EOF
	})
}

func showsAfter(t *testing.T, l leaf, first func(net.Conn) error) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	config := &tls.Config{Certificates: []tls.Certificate{l.pair}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				if first(conn) == nil {
					_, _ = io.Copy(io.Discard, tls.Server(conn, config))
				}
			}()
		}
	}()
	return listener.Addr().String()
}
