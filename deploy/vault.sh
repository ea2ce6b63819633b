#!/bin/sh
# Initialises Vault the first time, unseals it, and tells it what hallpass needs;
# with the argument unseal it stays, and unseals Vault whenever it has been started
# anew. One key share in a file beside it is for trying out; keep
# yours apart, or have Vault unseal itself with a KMS. No secret is in an
# argument or in the environment: the root token is where vault login leaves
# it, and all others go through standard input. The test of the topology runs it
# too, with other addresses and no owner to change.
set -eu
umask 077
cd "${HALLPASS_SETUP:-/etc/hallpass}/vault-setup"
export HOME="$PWD"
database=${DATABASE:-postgres:5432} database_ca=${DATABASE_CA:-/vault/tls/ca.pem} # as Vault sees them

unseal() { # with the share of init.json
	key=$(sed -n '/"unseal_keys_b64"/{n;s/[", ]//g;p;}' init.json)
	printf '{"key": "%s"}' "$key" | vault write sys/unseal - >/dev/null
}

answers() { # 0 unsealed, 2 sealed, 1 no answer
	status=0
	vault status >/dev/null 2>&1 || status=$?
	[ $status != 1 ]
}

if [ "${1:-}" = unseal ]; then
	echo "unseals Vault whenever it is sealed"
	while :; do
		! answers || [ $status != 2 ] || unseal || true
		sleep 2
	done
fi

until answers; do sleep 1; done
if [ ! -s init.json ]; then
	vault operator init -format=json -key-shares=1 -key-threshold=1 >init.new
	mv init.new init.json
fi
unseal
sed -n 's/.*"root_token": *"\([^"]*\)".*/\1/p' init.json >.vault-token
until vault token lookup >/dev/null 2>&1; do sleep 1; done

vault secrets list | grep -q '^database/' || vault secrets enable database
vault write database/config/orders - >/dev/null <<JSON
{"plugin_name": "postgresql-database-plugin", "allowed_roles": "orders-ro", "username": "vault", "password": "$(cat password)",
 "connection_url": "postgresql://{{username}}:{{password}}@$database/orders?sslmode=verify-full&sslrootcert=$database_ca"}
JSON
vault write database/roles/orders-ro - >/dev/null <<'JSON'
{"db_name": "orders", "default_ttl": "8h", "max_ttl": "24h",
 "creation_statements": ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE \"orders-ro\"; GRANT \"{{name}}\" TO CURRENT_USER;"],
 "revocation_statements": ["DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') THEN ALTER ROLE \"{{name}}\" NOLOGIN; PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'; REASSIGN OWNED BY \"{{name}}\" TO CURRENT_USER; DROP OWNED BY \"{{name}}\"; PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'; DROP ROLE \"{{name}}\"; END IF; END $$;"]}
JSON

sh plan.sh >/dev/null
vault write auth/approle/role/hallpass/role-id role_id=hallpass-issuer >/dev/null
[ -s ../vault/secret_id ] || {
	vault write -f -field=secret_id auth/approle/role/hallpass/secret-id >../vault/secret_id.new
	[ "${HALLPASS_SETUP_OWNERS:-yes}" != yes ] || chown 65532:65532 ../vault/secret_id.new
	mv ../vault/secret_id.new ../vault/secret_id
}
