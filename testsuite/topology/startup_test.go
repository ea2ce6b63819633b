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
	"path/filepath"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"hallpass/testsuite/process"
)

// TestStartUpSaysWhatIsWrong starts a worker with one thing wrong. It either
// ends, and its last lines say what is wrong and what to do, or it waits, and
// its log and /ready do.
func TestStartUpSaysWhatIsWrong(t *testing.T) {
	w := furnish(t)
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
	w.ready("once") // has made the audit log
	w.programs["once"].process.Kill()

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

		{name: "PostgreSQL elsewhere", env: []string{"HALLPASS_AUDIT_DATABASE=postgres://hallpass@127.0.0.1:1/audit"}, ends: true,
			want: []string{"PostgreSQL can't be reached", "127.0.0.1:1"}},
		{name: "PostgreSQL read-only", ends: true, spoil: w.sql("ALTER DATABASE audit SET default_transaction_read_only = on", "ALTER DATABASE audit RESET default_transaction_read_only"),
			want: []string{"the database of the audit log is read-only"}},
		{name: "PostgreSQL forgets", ends: true, spoil: w.sql("ALTER ROLE hallpass SET synchronous_commit = off", "ALTER ROLE hallpass RESET synchronous_commit"),
			want: []string{"synchronous_commit"}},
		{name: "wrong password", env: []string{"PGPASSFILE=", "PGPASSWORD=wrong"}, ends: true, want: []string{"password authentication failed"}},
		{name: "a newer schema", ends: true, spoil: w.schema("99"),
			want: []string{"audit log has schema version 99, this hallpass knows", "use the newer hallpass"}},
		{name: "a changed schema", ends: true, spoil: w.audit("ALTER TABLE hallpass_audit.serials ADD COLUMN more int", "ALTER TABLE hallpass_audit.serials DROP COLUMN more"),
			want: []string{"the tables of the audit log have been changed"}},
		{name: "another key", env: []string{"HALLPASS_AUDIT_KEY=" + w.dir + "/ssh-ca/users"}, ends: true, want: []string{"audit"}},
		{name: "no CA key", role: "issuer:ssh", env: []string{"HALLPASS_ISSUERS_SSH_KEY=file:" + w.dir + "/not-here"}, ends: true, want: []string{"not-here"}},
		{name: "a KMS that isn't there", role: "issuer:ssh",
			env:  []string{"HALLPASS_ISSUERS_SSH_KEY=vault:transit/ca", "HALLPASS_ISSUERS_VAULT_ADDRESS=https://127.0.0.1:1", "HALLPASS_ISSUERS_VAULT_SECRET_ID_FILE=" + w.dir + "/postgres/admin"},
			want: []string{"vault at https://127.0.0.1:1 can't be reached"}},
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
				// The reason is the last thing that it says, in two lines at most.
				if err := said(tail(strings.TrimSuffix(string(out), "\n"), 2)); err != nil {
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

// taken makes a namespace in which somebody else has our search attributes.
func (w *world) taken(t *testing.T) {
	c := w.dial()
	_, err := c.WorkflowService().RegisterNamespace(t.Context(), &workflowservice.RegisterNamespaceRequest{
		Namespace: "taken", WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.poll("the namespace", func() error {
		_, err := c.OperatorService().AddSearchAttributes(t.Context(), &operatorservice.AddSearchAttributesRequest{
			Namespace: "taken", SearchAttributes: map[string]enumspb.IndexedValueType{"HallpassState": enumspb.INDEXED_VALUE_TYPE_INT},
		})
		return err
	})
}

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

// shows is the address of something that shows a certificate to all who come.
func shows(t *testing.T, l leaf) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{l.pair}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, conn); _ = conn.Close() }()
		}
	}()
	return listener.Addr().String()
}
