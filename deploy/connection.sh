# shellcheck shell=bash
# Sourced by backup.sh and restore.sh: the settings of trialsync-etl as libpq's own variables, so that no password stands
# in the list of processes.
if [ -n "${DATABASE_URL:-}" ]; then
  eval "$(python3 - <<'PY'
import os, shlex
from urllib.parse import parse_qs, unquote, urlsplit

url = urlsplit(os.environ["DATABASE_URL"])
query = {name: values[-1] for name, values in parse_qs(url.query).items()}
found = {
    "PGHOST": query.get("host") or url.hostname,
    "PGPORT": str(url.port) if url.port else query.get("port"),
    "PGUSER": unquote(url.username) if url.username else query.get("user"),
    "PGPASSWORD": unquote(url.password) if url.password else query.get("password"),
    "PGDATABASE": unquote(url.path.lstrip("/")) or query.get("dbname"),
    "PGSSLMODE": query.get("sslmode"),
}
for name, value in found.items():
    if value:
        print(f"export {name}={shlex.quote(value)}")
PY
)"
elif [ -n "${DATABASE_HOST:-}" ]; then
  export PGHOST=$DATABASE_HOST PGPORT=${DATABASE_PORT:-5432} PGDATABASE=${DATABASE_NAME:-trialsync}
  export PGUSER=${DATABASE_USER:-trialsync} PGPASSWORD=${DATABASE_PASSWORD:-}
else
  echo "Which database? Set DATABASE_URL or DATABASE_HOST." >&2
  exit 2
fi
: "${PGDATABASE:?the URL names no database}"
# A pg_dump that is older than the server refuses it. A server on this machine, such as the embedded one, tells its
# administrator where its own programs are.
if [ "${PGHOST:-}" = 127.0.0.1 ] || [ "${PGHOST:-}" = localhost ]; then
  programs=$(psql --no-psqlrc -qAt -c "select setting from pg_config where name = 'BINDIR'" 2> /dev/null || true)
  if [ -n "$programs" ] && [ -x "$programs/pg_dump" ]; then
    PATH=$programs:$PATH
  fi
fi
