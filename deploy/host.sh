#!/bin/sh
# A host that people log in to: enrols with hallpass once it can, and then
# runs sshd with hallpass-host beside it. HOST is its name in the catalog.
set -eu
mkdir -p /run/sshd
id deploy >/dev/null 2>&1 || useradd --create-home --shell /bin/bash deploy
ssh-keygen -A >/dev/null
if [ ! -e /etc/hallpass-host/config.json ]; then
	until hallpass-host enroll --service https://service:7443 --ca /etc/hallpass/service-ca/ca.pem --host "$HOST" --token - <"/etc/hallpass/hosts/$HOST/token"; do
		sleep 2
	done
fi
# While it doesn't run, nobody gets in with a certificate of hallpass.
while :; do
	hallpass-host run || true
	sleep 1
done &
exec /usr/sbin/sshd -D -e
