#!/usr/bin/env bash
# system.sh PACKAGE…: what every image of ours has of its distribution, the given packages too, and the user that we run
# as. For `docker build` alone; it runs as root.
#
# Versions are the distribution's, which the base's digest does not fix: its mirrors keep only the newest of each.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get update
# git: DVC and the tag of the commit; tini: reaps what a killed stage leaves, and hands signals on
apt-get install --yes --no-install-recommends ca-certificates git make tini "$@"
rm -rf /var/lib/apt/lists/*

if getent passwd ubuntu >/dev/null; then userdel --remove ubuntu; fi # Ubuntu's images give it our uid
useradd --create-home --uid 1000 --shell /bin/bash medtune
install --directory --owner 1000 --group 1000 /home/medtune/work
chmod 0777 /home/medtune # `--user` may name any uid
# a checkout that is mounted belongs to somebody on the host, whom git would not trust otherwise
git config --system --add safe.directory /home/medtune/work
