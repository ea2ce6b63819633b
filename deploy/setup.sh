#!/bin/sh
# Makes every secret of docker-compose.yml, each in the volume of those who
# need it: passwords, TLS certificates, the keys of the audit log, of the SSH
# CAs and of two people, and a token for each host. What is there it leaves
# alone, but certificates that end within 30 days. With the argument directory it
# puts what is on standard input into the place of directory.yaml. The test of the
# topology runs it too, with no owners to change.
set -eu
umask 077
cd "${HALLPASS_SETUP:-/etc/hallpass}"
export HALLPASS_CONFIG="$PWD/public/hallpass.yaml"

if [ "${1:-}" = directory ]; then
	cat >public/directory.new
	hallpass directory check --directory public/directory.new
	chmod 644 public/directory.new
	mv public/directory.new public/directory.yaml
	exit
fi

# Who runs in the containers.
hallpass=65532 temporal=1000 postgres=999 vault=1000

mkdir -p tls-ca public workers writers tls ssh-ca vault service-ca service-key temporal ui postgres vault-server vault-data vault-setup people/alice people/bob hosts/web-1 hosts/web-2

# The configuration and the rulebook that count are copies, root's: what is mounted
# belongs to whoever checked it out, and hallpass obeys files of root's and of its own
# user alone.
[ "${HALLPASS_SETUP_OWNERS:-yes}" != yes ] || chown -R 0:0 public
for file in hallpass.yaml policy.yaml catalog.yaml; do
	cp $file public/$file.new
	chmod 644 public/$file.new # before workers that run look at it
	mv public/$file.new public/$file
done

secret() { # file: a password, unless there is one
	[ -s "$1" ] || { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$1.new" && mv "$1.new" "$1"; }
}

certificate() { # path without ending, names, what it is for
	openssl x509 -checkend 2592000 -noout -in "$1.pem" >/dev/null 2>&1 || {
		openssl req -x509 -CA tls-ca/ca.pem -CAkey tls-ca/ca.key -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc \
			-days 825 -subj "/CN=${1##*/}" -addext "subjectAltName=$2" -addext "extendedKeyUsage=$3" \
			-addext basicConstraints=critical,CA:FALSE -keyout "$1.key.new" -out "$1.new" 2>/dev/null &&
			mv "$1.key.new" "$1.key" && mv "$1.new" "$1.pem"
	}
	cp tls-ca/ca.pem "${1%/*}/ca.pem"
}

# One TLS CA for what is inside; it has nothing to do with SSH.
[ -s tls-ca/ca.pem ] || {
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 -subj "/CN=hallpass docker-compose" \
		-addext keyUsage=critical,keyCertSign -keyout tls-ca/ca.key -out tls-ca/ca.new 2>/dev/null && mv tls-ca/ca.new tls-ca/ca.pem
}
here=DNS:localhost,IP:127.0.0.1
certificate postgres/server "DNS:postgres,$here" serverAuth
certificate temporal/temporal "DNS:temporal,DNS:temporal-frontend,$here" serverAuth,clientAuth
certificate vault-server/server "DNS:vault,$here" serverAuth
certificate ui/client DNS:temporal-ui clientAuth
certificate tls/client DNS:hallpass clientAuth
[ -s vault-setup/ca.pem ] || cp tls-ca/ca.pem vault-setup/ca.pem

for user in admin temporal hallpass_writer hallpass_service hallpass_reader vault; do secret "postgres/$user"; done
[ -s temporal/password ] || cp postgres/temporal temporal/password
[ -s temporal/pgpass ] || printf '*:*:*:temporal:%s\n' "$(cat postgres/temporal)" >temporal/pgpass
[ -s vault-setup/password ] || cp postgres/vault vault-setup/password
[ -s writers/pgpass ] || printf '*:*:audit:hallpass_writer:%s\n' "$(cat postgres/hallpass_writer)" >writers/pgpass
[ -s service-key/pgpass ] || printf '*:*:audit:hallpass_service:%s\n' "$(cat postgres/hallpass_service)" >service-key/pgpass

[ -s workers/audit.key ] || hallpass audit init docker-compose.hallpass >/dev/null
[ -s postgres/audit.sql ] || hallpass audit schema >postgres/audit.sql
[ -s ssh-ca/users ] || hallpass ca init ssh-ca/users >/dev/null
[ -s ssh-ca/hosts ] || hallpass ca init ssh-ca/hosts >/dev/null
[ -s public/known_hosts ] || printf '@cert-authority * %s\n' "$(cat ssh-ca/hosts.pub)" >public/known_hosts

for person in alice bob; do
	[ -s people/$person/id ] || ssh-keygen -q -t ed25519 -N '' -C $person -f people/$person/id
done
# Who is who. It is written once: it is yours to edit.
[ -s public/directory.yaml ] || cat >public/directory.yaml <<YAML
users:
  alice:
    groups: [dev]
    keys: ["$(cat people/alice/id.pub)"]
  bob:
    groups: [sre]
    keys: ["$(cat people/bob/id.pub)"]
YAML
chmod 755 public
chmod 644 public/*

# What Vault has to be told, for vault.sh.
hallpass vault setup --print >vault-setup/plan.sh

# A host that isn't enrolled yet has an hour for it.
for host in web-1 web-2; do
	HALLPASS_USER=bob HALLPASS_KEY=people/bob/id hallpass host token $host >hosts/$host/token 2>/dev/null
done

[ "${HALLPASS_SETUP_OWNERS:-yes}" = yes ] || exit 0
chown -R $hallpass:$hallpass workers writers tls ssh-ca vault service-ca service-key people
chown -R $temporal:$temporal temporal ui
chown -R $postgres:$postgres postgres
chown -R $vault:$vault vault-server vault-data
chmod 755 service-ca
