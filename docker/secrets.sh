#!/usr/bin/env bash
# secrets.sh [FOLDER]: random secrets for compose.yaml, a file each, once. What is there stays: run it again any time.
#
#   docker/secrets.sh                        # into docker/secrets, which git, DVC and the build do not see
#   cat docker/secrets/mlflow_admin_password # for the browser: user admin
#   cat docker/secrets/prefect_auth          # for the browser, as it is: medtune:…
#
# The files are readable by you alone, and the services run as you: their uid goes into .env, where Compose finds it.
# To change a password of a database, remove its file, run this, and `docker compose up --force-recreate`: the service
# `prepare` hands it to PostgreSQL. postgres_password, s3_* and mlflow_admin_password were taken over by a volume when it
# was made: change those in the program itself.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$root/docker/secrets}
umask 077
mkdir -p "$folder"

random() { head -c "$1" /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# secret NAME VALUE: written beside its place and linked there, which never replaces what somebody else was quicker to
# put there
secret() {
  [ ! -e "$folder/$1" ] || return 0
  local made
  made=$(mktemp "$folder/.$1.XXXXXX")
  printf '%s' "$2" >"$made"
  if ln "$made" "$folder/$1" 2>/dev/null; then echo "made $folder/$1"; fi
  rm -f "$made"
}

for name in postgres mlflow_database prefect_database ledger_database; do secret "${name}_password" "$(random 24)"; done
secret s3_access_key "medtune-$(random 6)"
secret s3_secret_key "$(random 24)"
secret mlflow_admin_password "$(random 16)"
secret mlflow_secret_key "$(random 32)"
secret prefect_auth "medtune:$(random 16)"

if [ "$folder" = "$root/docker/secrets" ] && ! grep -qs '^MEDTUNE_UID=' "$root/.env"; then
  printf 'MEDTUNE_UID=%s\nMEDTUNE_GID=%s\n' "$(id -u)" "$(id -g)" >>"$root/.env"
  echo "wrote your uid into $root/.env"
fi
