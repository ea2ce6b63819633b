#!/bin/sh
# A host that people log in to: enrols with hallpass once it can, and then
# runs sshd with hallpass-host beside it. HOST is its name in the catalog. The test
# of the topology runs it too, with other addresses; what is said to it, sshd hears.
set -eu
secrets=${HALLPASS_SETUP:-/etc/hallpass}
mkdir -p /run/sshd
id deploy >/dev/null 2>&1 || useradd --create-home --shell /bin/bash deploy
ssh-keygen -A >/dev/null
if [ ! -e /etc/hallpass-host/config.json ]; then
	until hallpass-host enroll --service "${SERVICE:-https://service:7443}" --ca "$secrets/service-ca/ca.pem" --host "$HOST" --token - <"$secrets/hosts/$HOST/token"; do
		sleep 2
	done
fi
# While it doesn't run, nobody gets in with a certificate of hallpass.
while :; do
	hallpass-host run || true
	sleep 1
done &
exec /usr/sbin/sshd -D -e "$@"
