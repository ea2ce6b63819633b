package vault

import (
	"fmt"
	"strings"
)

// PostgresRevocation are revocation_statements for a role of the database
// engine that take a PostgreSQL login back, sessions and all. It is one DO block
// because Vault runs the statements of a role in one transaction, and without
// the condition a login that is gone already could never be revoked.
//
// Sessions are ended first, since one that is in a transaction would hold up
// REASSIGN OWNED, and once more at the end, for those that were on their way
// in.
const PostgresRevocation = `DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') THEN
    ALTER ROLE "{{name}}" NOLOGIN;
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';
    REASSIGN OWNED BY "{{name}}" TO CURRENT_USER;
    DROP OWNED BY "{{name}}";
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';
    DROP ROLE "{{name}}";
  END IF;
END $$;`

// PostgresCreation are creation_statements that go with PostgresRevocation: a
// login that can do what a group of PostgreSQL's can. Vault's own login becomes
// a member of it, and so may end its sessions and take over what it owns.
func PostgresCreation(group string) string {
	return fmt.Sprintf(`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE "%s";
GRANT "{{name}}" TO CURRENT_USER;`, strings.ReplaceAll(group, `"`, `""`))
}
