#!/bin/sh
# Makes the databases and users of Temporal, of the audit log, and of the
# database that Vault gives logins to. The image of PostgreSQL runs it once,
# when it makes the cluster. Passwords are read by psql from files. The tables of the
# audit log are hallpass's, as which nobody comes: workers, the service and readers have
# the rights that docs/operate.md says.
set -eu
export SECRETS="${SECRETS:-/run/postgres}"
psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set temporal `cat "$SECRETS"/temporal`
\set writer `cat "$SECRETS"/hallpass_writer`
\set service `cat "$SECRETS"/hallpass_service`
\set reader `cat "$SECRETS"/hallpass_reader`
\set schema `echo "$SECRETS"/audit.sql`
\set vault `cat "$SECRETS"/vault`
CREATE ROLE temporal LOGIN PASSWORD :'temporal';
CREATE ROLE hallpass;
CREATE ROLE hallpass_writer LOGIN PASSWORD :'writer';
CREATE ROLE hallpass_service LOGIN PASSWORD :'service';
CREATE ROLE hallpass_reader LOGIN PASSWORD :'reader';
CREATE ROLE vault LOGIN CREATEROLE PASSWORD :'vault';
CREATE DATABASE temporal OWNER temporal;
CREATE DATABASE temporal_visibility OWNER temporal;
CREATE DATABASE audit OWNER hallpass ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE orders OWNER vault;
\connect audit
SET ROLE hallpass;
\i :schema
GRANT USAGE ON SCHEMA hallpass_audit TO hallpass_writer, hallpass_service, hallpass_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA hallpass_audit TO hallpass_writer, hallpass_service, hallpass_reader;
GRANT INSERT ON ALL TABLES IN SCHEMA hallpass_audit TO hallpass_writer;
GRANT UPDATE ON hallpass_audit.ledger, hallpass_audit.serials, hallpass_audit.krl, hallpass_audit.hosts TO hallpass_writer;
GRANT INSERT ON hallpass_audit.events, hallpass_audit.checkpoints TO hallpass_service;
RESET ROLE;
\connect orders
CREATE TABLE orders (id int PRIMARY KEY, what text);
INSERT INTO orders VALUES (1, 'forty-two bicycles');
CREATE ROLE "orders-ro";
GRANT SELECT ON orders TO "orders-ro";
GRANT "orders-ro" TO vault WITH ADMIN OPTION;
SQL
