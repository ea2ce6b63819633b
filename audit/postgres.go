package audit

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"hallpass/access"
	"hallpass/internal/wording"
)

const (
	// postgresSchema is the schema (namespace) that the log has to itself.
	postgresSchema = "hallpass_audit"
	// postgresLock is the number of the advisory lock that writers take, in
	// each database: "hallpass" in ASCII.
	postgresLock = 0x68616c6c70617373
	// roundTrip is the longest that PostgreSQL may take for what it was sent.
	roundTrip = time.Minute
)

// maxConnections bounds the connections that a pool has: a process that writes has
// one pool to read, and one more connection, its writer's. Who has one of a pool
// doesn't ask for another, or those who wait would wait for each other; the tests
// set it to 1.
var maxConnections = 16

// IsAddress says whether a database is named by an address of PostgreSQL
// rather than by the path of a file.
func IsAddress(name string) bool {
	return strings.HasPrefix(name, "postgres:") || strings.HasPrefix(name, "postgresql:")
}

// CheckDatabase says what is wrong with the name of a database, if anything:
// it is the path of a file, or an address of PostgreSQL
// ("postgres://user@host/name"), which must not have a password in it. What is
// secret is not in the error.
func CheckDatabase(name string) error {
	if !IsAddress(name) {
		return nil
	}
	u, err := url.Parse(name)
	if err != nil || u.Scheme == "" || u.Opaque != "" || strings.Trim(u.Path, "/") == "" {
		return access.Errorf(access.CodeMalformed, "the address of the audit log is not of the form postgres://user@host/database")
	}
	_, password := u.User.Password()
	for key := range u.Query() {
		password = password || strings.Contains(strings.ToLower(key), "password")
	}
	if password {
		return access.Errorf(access.CodeMalformed, "the address of the audit log has a password in it, which would be shown; leave it out").
			WithHint("put it into a file for PGPASSFILE (~/.pgpass, mode 0600: host:port:database:user:password) or into PGPASSWORD")
	}
	return nil
}

// postgres is the database at an address.
type postgres struct {
	address string
	name    string
}

func newPostgres(address string) (*postgres, error) {
	if err := CheckDatabase(address); err != nil {
		return nil, err
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, err // CheckDatabase has parsed it
	}
	shown := url.URL{Scheme: "postgres", Host: u.Host, Path: u.Path}
	if user := u.User.Username(); user != "" {
		shown.User = url.User(user)
	}
	p := &postgres{address: address, name: shown.String()}
	if _, err := p.config(); err != nil {
		return nil, access.Errorf(access.CodeMalformed, "the address of the audit log: %s", wording.Line(err.Error()))
	}
	return p, nil
}

// config is how to connect, by the address, the environment and the files that
// they name (passwords, certificates, services) as these are now.
func (p *postgres) config() (*pgx.ConnConfig, error) {
	config, err := parseAddress(p.address)
	if err != nil {
		return nil, err
	}
	// What leaves the machine is encrypted, and goes to whom it should, unless
	// somebody says otherwise.
	u, err := url.Parse(p.address)
	if err != nil {
		return nil, err // newPostgres has parsed it
	}
	if q := u.Query(); q.Get("sslmode") == "" && os.Getenv("PGSSLMODE") == "" && trusting(config) {
		q.Set("sslmode", "verify-full")
		u.RawQuery = q.Encode()
		if config, err = parseAddress(u.String()); err != nil {
			return nil, err
		}
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second
	}
	set := config.RuntimeParams
	set["search_path"], set["client_encoding"] = postgresSchema, "UTF8"
	for key, value := range map[string]string{
		"application_name": "hallpass",
		"lock_timeout":     strconv.FormatInt(busyTimeout.Milliseconds(), 10),
		// A writer that hangs in a transaction, or whose network is gone,
		// doesn't keep the others waiting for ever.
		"idle_in_transaction_session_timeout": strconv.FormatInt(roundTrip.Milliseconds()/2, 10),
	} {
		set[key] = cmp.Or(set[key], value)
	}
	return config, nil
}

// parseAddress is pgx.ParseConfig, but for an error without the address.
func parseAddress(address string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(address)
	if cause := errors.Unwrap(err); cause != nil {
		err = cause
	}
	return config, err
}

// trusting says whether a configuration has sslmode=prefer for what leaves the
// machine: TLS with whoever answers, or else none. So it is where nobody has said
// anything, or a service file no more than that. It asks the configuration, since the
// host comes from the address, in one of two places, the environment or a service file.
func trusting(config *pgx.ConnConfig) bool {
	all := append([]*pgconn.FallbackConfig{{Host: config.Host, Port: config.Port, TLSConfig: config.TLSConfig}}, config.Fallbacks...)
	for _, to := range all {
		// Where TLS begins at once there is no other try, but as little is asked of
		// whoever answers.
		if config.SSLNegotiation == "direct" && !local(to.Host) && to.TLSConfig != nil && to.TLSConfig.InsecureSkipVerify {
			return true
		}
	}
	for i, to := range all[1:] {
		was := all[i]
		if !local(to.Host) && was.Host == to.Host && was.Port == to.Port && was.TLSConfig != nil && to.TLSConfig == nil {
			return true
		}
	}
	return false
}

// local says whether what is sent to a host, or a folder of sockets, stays on the
// machine.
func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasPrefix(host, "/") || ip != nil && ip.IsLoopback()
}

func (p *postgres) String() string { return p.name }

var jsonField = regexp.MustCompile(`json_extract\((\w+), '\$\.(\w+)'\)`)

// room inserts more than fits into one page.
func (p *postgres) room() string {
	return "INSERT INTO events SELECT -i, 0, '', '', '', '', '', '', '', decode(repeat('00', 1800), 'hex') FROM generate_series(1, 5) AS i"
}

// translate makes a statement of SQLite's one of PostgreSQL's: it numbers the
// placeholders, and says in other words what a JSON text has in a field, and
// what the schema needs. Text is compared byte by byte, as SQLite does it.
func (p *postgres) translate(query string) string {
	if strings.Contains(query, "json_extract(") {
		query = jsonField.ReplaceAllStringFunc(query, func(s string) string {
			m := jsonField.FindStringSubmatch(s)
			field := fmt.Sprintf("(nullif(%s, '')::json ->> '%s')", m[1], m[2])
			if m[2] == "serial" {
				return "(" + field + "::bigint)"
			}
			return "(" + field + ` COLLATE "C")`
		})
	}
	query = strings.ReplaceAll(query, "INDEXED BY events_step ", "")
	if strings.HasPrefix(query, "CREATE ") {
		query = strings.NewReplacer(") STRICT, WITHOUT ROWID", ")", ") STRICT", ")", " INTEGER ", " bigint ", " TEXT ", ` text COLLATE "C" `, " BLOB ", " bytea ").Replace(query)
	}
	if !strings.Contains(query, "?") {
		return query
	}
	var out strings.Builder
	quoted, n := false, 0
	for i := range len(query) {
		switch c := query[i]; {
		case c == '\'':
			quoted = !quoted
			out.WriteByte(c)
		case c != '?' || quoted:
			out.WriteByte(c)
		case i+1 < len(query) && '1' <= query[i+1] && query[i+1] <= '9': // numbered already
			out.WriteByte('$')
		default:
			n++
			out.WriteString("$" + strconv.Itoa(n))
		}
	}
	return out.String()
}

func (p *postgres) pool(readOnly bool) (*sql.DB, error) {
	// Each connection by what the files say then: passwords and certificates are
	// changed, and those that were good at the start are good no more.
	anew := func(_ context.Context, config *pgx.ConnConfig) error {
		now, err := p.config()
		if err != nil {
			return access.Errorf(access.CodeUnavailable, "the address of the audit log: %s", wording.Line(err.Error()))
		}
		if readOnly {
			now.RuntimeParams["default_transaction_read_only"] = "on"
		}
		*config = *now
		return nil
	}
	db := stdlib.OpenDB(pgx.ConnConfig{}, stdlib.OptionBeforeConnect(anew))
	db.SetMaxOpenConns(maxConnections)
	idle(db)
	return db, nil
}

// session connects. The settings that a log depends on are looked at in each
// transaction (settings), so that nobody changes them meanwhile.
func (p *postgres) session(ctx context.Context, db *sql.DB) (session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &postgresSession{translated{conn, p}}, nil
}

func (p *postgres) lock() []stmt {
	return []stmt{
		// Each statement after the lock sees what was committed before it.
		{query: "BEGIN ISOLATION LEVEL READ COMMITTED"},
		{query: "SELECT pg_advisory_xact_lock(" + strconv.Itoa(postgresLock) + ")"},
	}
}

func (p *postgres) snapshot() string { return "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" }

func (p *postgres) version() string { return "" } // and intact does nothing

func (p *postgres) clock() string {
	return "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
}

func (p *postgres) settings() string {
	return "current_setting('synchronous_commit'), current_setting('fsync'), current_setting('transaction_read_only')"
}

// prefetch has a subquery with a limit, which keeps PostgreSQL from reading
// the whole table when it knows little about it.
func (p *postgres) prefetch(requests, steps []string) (string, []any) {
	return `SELECT k.request, k.step, e.idx, e.leaf FROM unnest(?::text[], ?::text[]) AS k (request, step)
		CROSS JOIN LATERAL (SELECT idx, leaf FROM events WHERE request = k.request AND step = k.step AND step <> '' LIMIT 1) AS e`, []any{requests, steps}
}

// postgresComment begins the comment that tells the version of the schema.
const postgresComment = "audit log of hallpass, schema version "

// schema describes what is in our schema by PostgreSQL's own catalogs, a line
// for each thing.
func (p *postgres) schema(ctx context.Context, q querier) (v int, found []string, err error) {
	var encoding string
	var comment sql.NullString
	var usable sql.NullBool
	err = q.QueryRowContext(ctx, `SELECT current_setting('server_encoding'), obj_description(n.oid, 'pg_namespace'), has_schema_privilege(n.oid, 'USAGE')
		FROM (SELECT) AS always LEFT JOIN pg_namespace n ON n.nspname = ?`, postgresSchema).Scan(&encoding, &comment, &usable)
	if err != nil {
		return 0, nil, fmt.Errorf("open audit log: %w", explain(err))
	}
	if encoding != "UTF8" {
		return 0, nil, access.Errorf(access.CodeMalformed, "the database of the audit log has the encoding %s, not UTF8", encoding)
	}
	if usable.Valid && !usable.Bool {
		return 0, nil, access.Errorf(access.CodeUnavailable, "the audit log's user may not use the schema %s", postgresSchema).WithHint(rightsHint)
	}
	if text, ours := strings.CutPrefix(comment.String, postgresComment); ours {
		if v, err = strconv.Atoi(text); err != nil {
			v = 0
		}
	}
	found, err = list(ctx, q, postgresCatalog, slices.Repeat([]any{postgresSchema}, 6)...)
	if err != nil {
		return 0, nil, err
	}
	if v == 0 && len(found) > 0 {
		return 0, nil, access.Errorf(access.CodeMalformed, "the schema %s of this database is not an audit log of hallpass", postgresSchema)
	}
	return v, found, nil
}

// postgresCatalog lists what is in a schema: tables with their columns and
// whatever makes them do more than hold rows, indexes, constraints, and all
// else that could change what a statement means.
const postgresCatalog = `WITH ours AS (SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ?)
SELECT line FROM (
	SELECT 'table ' || c.relname || ' (' || (
		SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) ||
			coalesce(' ' || (SELECT CASE WHEN collnamespace = 'pg_catalog'::regnamespace THEN '' ELSE 'another ' END || collname FROM pg_collation WHERE oid = a.attcollation), '') ||
			CASE WHEN a.attnotnull THEN '' ELSE ' null' END || CASE WHEN a.atthasdef THEN ' default' ELSE '' END, ', ' ORDER BY a.attnum)
		FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) || ')' ||
		CASE WHEN c.relpersistence <> 'p' THEN ' not permanent' ELSE '' END || CASE WHEN c.relrowsecurity THEN ' with row security' ELSE '' END
	FROM ours c WHERE c.relkind = 'r'
	UNION ALL SELECT 'relation ' || relname FROM ours WHERE relkind NOT IN ('r', 'i', 't')
	UNION ALL SELECT 'index ' || replace(pg_get_indexdef(i.indexrelid), ' ON ' || quote_ident(?) || '.', ' ON ') ||
		CASE WHEN i.indisvalid AND i.indisready THEN '' ELSE ' invalid' END
	FROM pg_index i JOIN ours c ON c.oid = i.indrelid WHERE c.relkind = 'r'
	UNION ALL SELECT 'constraint ' || c.relname || ' ' || pg_get_constraintdef(k.oid) FROM pg_constraint k JOIN ours c ON c.oid = k.conrelid WHERE k.contype NOT IN ('p', 'n')
	UNION ALL SELECT 'trigger ' || t.tgname FROM pg_trigger t JOIN ours c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
	UNION ALL SELECT 'rule ' || r.rulename FROM pg_rewrite r JOIN ours c ON c.oid = r.ev_class
	UNION ALL SELECT 'heir of ' || c.relname FROM pg_inherits h JOIN ours c ON c.oid IN (h.inhparent, h.inhrelid)
	UNION ALL SELECT 'function ' || proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace WHERE n.nspname = ?
	UNION ALL SELECT 'operator ' || oprname FROM pg_operator JOIN pg_namespace n ON n.oid = oprnamespace WHERE n.nspname = ?
	UNION ALL SELECT 'collation ' || collname FROM pg_collation JOIN pg_namespace n ON n.oid = collnamespace WHERE n.nspname = ?
	UNION ALL SELECT 'type ' || typname FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace WHERE n.nspname = ? AND typrelid = 0 AND typelem = 0
) AS all_lines (line)`

// postgresLines is what postgresCatalog gives for schemas, as PostgreSQL 15
// writes it.
var postgresLines = [schemaVersion][]string{{
	`table events (idx bigint, time bigint, type text C, request text C, step text C, actor text C, requester text C, resource text C, hashes bytea, leaf bytea)`,
	`index CREATE UNIQUE INDEX events_pkey ON events USING btree (idx)`,
	`index CREATE UNIQUE INDEX events_step ON events USING btree (request, step) WHERE (step <> ''::text)`,
	`index CREATE INDEX events_request ON events USING btree (request)`,
	`index CREATE INDEX events_requester ON events USING btree (requester)`,
	`index CREATE INDEX events_resource ON events USING btree (resource)`,
	`index CREATE INDEX events_time ON events USING btree ("time")`,
	`table checkpoints (size bigint, note bytea)`,
	`index CREATE UNIQUE INDEX checkpoints_pkey ON checkpoints USING btree (size)`,
	`table ledger (request text C, hash text C, handle text C, credential text C, ended text C, ended_at bigint)`,
	`index CREATE UNIQUE INDEX ledger_pkey ON ledger USING btree (request)`,
	`table serials (ca text C, last bigint)`,
	`index CREATE UNIQUE INDEX serials_pkey ON serials USING btree (ca)`,
}, {
	`index CREATE INDEX ledger_revoked ON ledger USING btree (` +
		`(((NULLIF(handle, ''::text))::json ->> 'not_after'::text)) COLLATE "C", ` +
		`(((NULLIF(handle, ''::text))::json ->> 'ca'::text)) COLLATE "C", ` +
		`((((NULLIF(handle, ''::text))::json ->> 'serial'::text))::bigint)) ` +
		`WHERE ((ended <> ''::text) AND (ended <> 'expired'::text) AND (handle <> ''::text))`,
	`table cas (fingerprint text C, key text C)`,
	`index CREATE UNIQUE INDEX cas_pkey ON cas USING btree (fingerprint)`,
	`table krl (id bigint, taken bigint, version bigint, list bytea, signature text C)`,
	`index CREATE UNIQUE INDEX krl_pkey ON krl USING btree (id)`,
	`constraint krl CHECK ((id = 1))`,
	`table hosts (host text C, token text C, agent_key text C, host_key text C, certificate text C, at bigint)`,
	`index CREATE UNIQUE INDEX hosts_pkey ON hosts USING btree (host)`,
}, {
	`index CREATE INDEX ledger_open ON ledger USING btree (request) WHERE (ended = ''::text)`,
}, {
	`index CREATE INDEX events_past ON events USING btree (requester, type, idx, resource, "time", request) WHERE (requester <> ''::text)`,
}, {}}

func (p *postgres) want(version int) []string { return slices.Concat(postgresLines[:version]...) }

func (p *postgres) create(have int) []string {
	added := slices.Concat(schemas[have:]...)
	if len(added) == 0 {
		return nil // the owner of the tables needn't come for a number alone
	}
	var queries []string
	if have == 0 {
		// An administrator may have made it, for an owner who may not.
		queries = append(queries, fmt.Sprintf("DO $$ BEGIN IF to_regnamespace('%[1]s') IS NULL THEN CREATE SCHEMA %[1]s; END IF; END $$", postgresSchema))
	}
	queries = append(queries, added...)
	return append(queries, fmt.Sprintf("COMMENT ON SCHEMA %s IS '%s%d'", postgresSchema, postgresComment, schemaVersion))
}

// PostgresSchema is the SQL that makes an empty log in a PostgreSQL database, bound to
// the log's private key as Open binds it: for those who make it with psql, as the
// owner of its tables, so that whoever writes to the log needn't be that. It fails as
// a whole where there is a log already. Nothing secret is in it.
func PostgresSchema(key string) (string, error) {
	signer, _, err := parseKey(key)
	if err != nil {
		return "", err
	}
	note, err := emptyCheckpoint(signer)
	if err != nil {
		return "", err
	}
	var p postgres
	var b strings.Builder
	made := p.create(0)
	// The schema before the tables, which are made in it.
	for _, query := range slices.Concat([]string{"BEGIN", made[0], "SET LOCAL search_path TO " + postgresSchema}, made[1:],
		[]string{fmt.Sprintf(`INSERT INTO checkpoints (size, note) VALUES (0, '\x%x')`, note), "COMMIT"}) {
		b.WriteString(p.translate(query) + ";\n")
	}
	return b.String(), nil
}

// intact: PostgreSQL has checksums of its own, and pg_amcheck for its
// administrators.
func (p *postgres) intact(context.Context, querier) (string, error) { return "", nil }

// postgresSession sends what belongs together in one go (a pipeline).
type postgresSession struct{ translated }

func (s *postgresSession) send(ctx context.Context, stmts ...stmt) (done int, err error) {
	if !slices.ContainsFunc(stmts, func(x stmt) bool { return x.long }) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, roundTrip)
		defer cancel()
	}
	var batch pgx.Batch
	for _, x := range stmts {
		batch.Queue(s.translate(x.query), x.args...)
	}
	rerr := s.Raw(func(conn any) error {
		results := conn.(*stdlib.Conn).Conn().SendBatch(ctx, &batch)
		done, err = receive(results, stmts)
		if cerr := results.Close(); err == nil {
			err = cerr
		}
		return nil
	})
	if err != nil && ctx.Err() != nil {
		err = access.Errorf(access.CodeUnavailable, "PostgreSQL doesn't answer within %s", access.ShortDuration(roundTrip))
	}
	return done, errors.Join(err, rerr)
}

func receive(results pgx.BatchResults, stmts []stmt) (done int, err error) {
	for i, x := range stmts {
		if x.each == nil {
			tag, err := results.Exec()
			if err != nil {
				return i, err
			}
			if x.query == commitWork && tag.String() != commitWork {
				return i, fmt.Errorf("PostgreSQL answered COMMIT with %s", tag)
			}
			continue
		}
		rows, err := results.Query()
		if err != nil {
			return i, err
		}
		for rows.Next() {
			if err = x.each(rows); err != nil {
				break
			}
		}
		rows.Close()
		if err := errors.Join(err, rows.Err()); err != nil {
			return i, err
		}
	}
	return len(stmts), nil
}

func (s *postgresSession) gone() bool {
	closed := true
	err := s.Raw(func(conn any) error {
		closed = conn.(*stdlib.Conn).Conn().IsClosed()
		return nil
	})
	return closed || err != nil
}

// explainPostgres says what is wrong with PostgreSQL. All of it is worth
// another try: what doesn't get better by itself, somebody has to put right
// while requests wait. It is nil for other errors.
func explainPostgres(err error) error {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		switch said.Code {
		case "55P03": // lock_not_available
			return access.Errorf(access.CodeUnavailable, "audit log is locked by another process: %s", said.Message)
		case "53100": // disk_full
			return errFull()
		case "25006": // read_only_sql_transaction
			return errReadOnly()
		case "XX001", "XX002": // data_corrupted, index_corrupted
			return access.Errorf(access.CodeMalformed, "the database of the audit log is damaged: %s", wording.Line(said.Error()))
		case "28P01", "28000": // invalid_password, invalid_authorization_specification
			return access.Errorf(access.CodeUnavailable, "PostgreSQL refuses the audit log's user: %s", said.Message).
				WithHint("the password comes from PGPASSFILE, ~/.pgpass or PGPASSWORD")
		case "3D000": // invalid_catalog_name
			return access.Errorf(access.CodeUnavailable, "PostgreSQL has no database for the audit log: %s", said.Message).
				WithHint("createdb --encoding UTF8 --template template0 NAME")
		case "42501": // insufficient_privilege
			return access.Errorf(access.CodeUnavailable, "the audit log's user may not do that in PostgreSQL: %s", said.Message).
				WithHint(rightsHint)
		}
		return access.Errorf(access.CodeUnavailable, "PostgreSQL says: %s (SQLSTATE %s)", wording.Line(said.Message), said.Code)
	}
	var connect *pgconn.ConnectError
	var network net.Error
	if errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) {
		return access.Errorf(access.CodeUnavailable, "PostgreSQL can't be reached: %s", wording.Line(err.Error()))
	}
	return nil
}

// forbiddenPostgres says whether PostgreSQL doesn't let this user do that.
func forbiddenPostgres(err error) bool {
	var said *pgconn.PgError
	return errors.As(err, &said) && said.Code == "42501"
}

func errReadOnly() error {
	return access.Errorf(access.CodeUnavailable, "the database of the audit log is read-only")
}

const rightsHint = "docs/operate.md says which rights it needs"

// damagedPostgres says whether PostgreSQL can't make sense of its files.
func damagedPostgres(err error) bool {
	var said *pgconn.PgError
	return errors.As(err, &said) && (said.Code == "XX001" || said.Code == "XX002")
}
