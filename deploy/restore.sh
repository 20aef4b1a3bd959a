#!/usr/bin/env bash
# Restore a file of backup.sh into an empty database, all of it or nothing.
#
#   createdb trialsync_restored
#   DATABASE_URL=postgresql://… deploy/restore.sh /var/backups/trialsync/trialsync-….dump
#
# Which database: as in backup.sh. One that has a ledger already is refused: restore beside it, look, then rename.
# Afterwards run `trialsync-etl db migrate` and `trialsync-etl run`: what changed since the backup is read again.
set -euo pipefail

file=${1:?"usage: restore.sh FILE"}
# shellcheck source=deploy/connection.sh
. "$(dirname "$0")/connection.sh"

if [ "$(psql --no-psqlrc -qAt -c "select to_regclass('public.dw_etl_runs') is not null")" = t ]; then
  echo "The database $PGDATABASE holds a ledger already. Restore into an empty one." >&2
  exit 1
fi
pg_restore --dbname="$PGDATABASE" --no-owner --no-privileges --single-transaction --exit-on-error "$file"
psql --no-psqlrc -qAt -c 'analyze'
psql --no-psqlrc -qAt -c "select 'restored: ' || count(*) || ' runs, the last one of ' || max(started_at)::date from dw_etl_runs"
