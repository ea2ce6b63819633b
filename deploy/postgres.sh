#!/bin/sh
# Makes the databases and users of Temporal, of the audit log, and of the
# database that Vault gives logins to. The image of PostgreSQL runs it once,
# when it makes the cluster. Passwords are read by psql from files.
set -eu
export SECRETS="${SECRETS:-/run/postgres}"
psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set temporal `cat "$SECRETS"/temporal`
\set hallpass `cat "$SECRETS"/hallpass`
\set vault `cat "$SECRETS"/vault`
CREATE ROLE temporal LOGIN PASSWORD :'temporal';
CREATE ROLE hallpass LOGIN PASSWORD :'hallpass';
CREATE ROLE vault LOGIN CREATEROLE PASSWORD :'vault';
CREATE DATABASE temporal OWNER temporal;
CREATE DATABASE temporal_visibility OWNER temporal;
CREATE DATABASE audit OWNER hallpass ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE orders OWNER vault;
\connect orders
CREATE TABLE orders (id int PRIMARY KEY, what text);
INSERT INTO orders VALUES (1, 'forty-two bicycles');
CREATE ROLE "orders-ro";
GRANT SELECT ON orders TO "orders-ro";
GRANT "orders-ro" TO vault WITH ADMIN OPTION;
SQL
