#!/usr/bin/env bash
# entrypoint.sh COMMAND…: secrets from files into the environment of the command, and of nothing else.
#
# MLflow, Prefect, libpq and boto3 read passwords from the environment. Set there by Compose or Kubernetes they would
# stand in `docker inspect`; so a service names the file, NAME_FILE=/run/secrets/…, and NAME is set here, where only
# root and this container's own user can see it. Only files under /run/secrets are taken: SSL_CERT_FILE and the like
# stay as they are.
set -euo pipefail
secrets=${MEDTUNE_SECRETS:-/run/secrets}
while IFS= read -r name; do
  file=${!name}
  [[ $file == "$secrets"/* ]] || continue
  if [ ! -r "$file" ]; then
    echo "error: $name names $file, which cannot be read by uid $(id -u): docker/secrets.sh makes it, for MEDTUNE_UID" >&2
    exit 78
  fi
  value=$(<"$file")
  if [ -z "$value" ]; then
    echo "error: $name names $file, which is empty: remove the file on the host and run docker/secrets.sh" >&2
    exit 78
  fi
  export "${name%_FILE}=$value"
  unset "$name"
done < <(compgen -e | grep -E '^[A-Z][A-Z0-9_]*_FILE$')
exec "$@"
