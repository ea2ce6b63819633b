package grants

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallpass/cli"
	"hallpass/vault"
)

// hallpass runs a command in process, with a configuration for this Vault.
func (w *world) hallpass(catalog string, env map[string]string, args ...string) (code int, out string) {
	w.t.Helper()
	dir := w.t.TempDir()
	for name, text := range map[string]string{
		"catalog.yaml": catalog,
		"hallpass.yaml": fmt.Sprintf("temporal: {address: \"127.0.0.1:1\"}\nissuers:\n  vault: {address: \"%s\", role_id: %s, secret_id_file: %s}\n",
			w.config.Address, w.config.RoleID, w.config.SecretIDFile),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	var both bytes.Buffer
	code = cli.Main(context.Background(), append(args, "--config", filepath.Join(dir, "hallpass.yaml")), strings.NewReader(""), &both, &both, func(name string) string { return env[name] })
	return code, both.String()
}

// What operators type: all in order, a fault with what to do, Vault away.
func TestCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.vault.Mount(t, "kv", "kv")
	w.vault.Write(t, "kv/password", map[string]any{"password": "hunter2"})
	kv := catalogYAML + "  vault/passwords: {path: kv, actions: {read: password}}\n"
	root := map[string]string{"VAULT_TOKEN": w.vault.RootToken}
	for _, tt := range []struct {
		name    string
		catalog string
		env     map[string]string
		args    []string
		code    int
		want    string
	}{
		{"as the issuer", catalogYAML, nil, []string{"vault", "check"}, cli.ExitOK, "ok   vault/orders read  database/creds/orders-ro gives a lease of 1h, and it was revoked."},
		{"as an operator", catalogYAML, root, []string{"vault", "check"}, cli.ExitOK, "Its revocation statements end open sessions."},
		{"by the catalog", catalogYAML, nil, []string{"catalog", "check", "--vault"}, cli.ExitOK, "ok   token role         hallpass mints for the catalog's policies alone"},
		{"a wrong token", catalogYAML, map[string]string{"VAULT_TOKEN": "hvs.wrong"}, []string{"vault", "check"}, cli.ExitError, "vault answers 403 to auth/token/lookup-self"},
		{"no lease", kv, nil, []string{"catalog", "check", "--vault"}, cli.ExitError, "hallpass: vault/passwords read: what kv/password gives has no lease, so it can't be taken back"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.catalog == kv {
				w.vault.Write(t, "auth/token/roles/hallpass-grant", map[string]any{"allowed_policies": "hallpass-grant-orders@dump,hallpass-grant-orders@read,hallpass-grant-passwords@read"})
				w.vault.Policy(t, "hallpass-grant-passwords@read", "# read of vault/passwords\npath \"kv/password\" {\n  capabilities = [\"read\"]\n}\n"+
					"path \"auth/token/lookup-self\" {\n  capabilities = [\"read\"]\n}\n")
			}
			code, out := w.hallpass(tt.catalog, tt.env, tt.args...)
			if code != tt.code || !strings.Contains(out, tt.want) {
				t.Errorf("exit code %d, want %d, and %q\n%s", code, tt.code, tt.want, out)
			}
			if strings.Contains(out, "hunter2") || strings.Contains(out, "hvs.") {
				t.Error("shows a secret")
			}
		})
	}
	w.vault.Seal(t)
	code, out := w.hallpass(catalogYAML, nil, "vault", "check")
	if code != cli.ExitUnreachable || !strings.Contains(out, "vault is sealed; it has to be unsealed") {
		t.Errorf("sealed: exit code %d\n%s", code, out)
	}
	w.vault.Unseal(t)
	w.clean()
}

// The statements that the documentation tells operators to use are those that
// are tested here.
func TestDocumentedStatements(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../../docs/vault.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, statements := range []string{vault.PostgresRevocation, vault.PostgresCreation("orders-ro")} {
		if !strings.Contains(string(data), "```sql\n"+statements+"\n```") {
			t.Errorf("docs/vault.md has other statements than the tests:\n%s", statements)
		}
	}
}
