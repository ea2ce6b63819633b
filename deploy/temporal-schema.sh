#!/bin/sh
# Makes Temporal's tables, or brings those of an older server up to date. The
# databases are there: postgres.sh makes them. Safe to repeat.
set -eu
secrets=${TEMPORAL_SECRETS:-/etc/temporal/tls}
export PGPASSFILE="$secrets/pgpass" SQL_PLUGIN=postgres12_pgx SQL_USER=temporal \
	SQL_HOST="${SQL_HOST:-postgres}" SQL_PORT="${SQL_PORT:-5432}" \
	SQL_TLS=true SQL_TLS_SERVER_NAME=postgres SQL_TLS_CA_FILE="$secrets/ca.pem"
for database in temporal temporal_visibility; do
	export SQL_DATABASE="$database"
	# Fails where there is a schema, whose version stays as it is.
	temporal-sql-tool setup-schema -v 0.0 2>/dev/null || true
	temporal-sql-tool update-schema --schema-name "postgresql/v12/${database#temporal_}"
done
