#!/usr/bin/env bash
# Back up the database into one compressed file, check it, and delete the old ones.
#
#   deploy/backup.sh /var/backups/trialsync        # keeps 14 files; KEEP=30 keeps 30
#
# Which database: DATABASE_URL, or DATABASE_HOST, _PORT, _NAME, _USER and _PASSWORD, as for trialsync-etl. For the
# embedded one: DATABASE_URL=$(trialsync-etl db url). pg_dump has to be as new as the server, or newer; the embedded one's
# own is found by itself.
# The file holds patient data: only its owner may read it, and it belongs on an encrypted disk.
set -euo pipefail
umask 077

directory=${1:?"usage: backup.sh DIRECTORY"}
keep=${KEEP:-14}
# shellcheck source=deploy/connection.sh
. "$(dirname "$0")/connection.sh"

name="$directory/trialsync-$(date -u +%Y%m%dT%H%M%SZ).dump"
made=$([ -d "$directory" ] || echo "$directory")
mkdir -p "$directory"
# What failed leaves nothing, not even the directory that was made for it.
trap 'rm -f "$name.part"; [ -z "$made" ] || rmdir "$made" 2> /dev/null || true' EXIT

# The landing tables are left out: a run empties them, and they are unlogged.
pg_dump --format=custom --no-owner --no-privileges --exclude-schema='*landing*' --file="$name.part"
# A file that cannot be listed cannot be restored.
pg_restore --list "$name.part" > /dev/null
mv "$name.part" "$name"
echo "written: $name"

# Names sort by time; the newest $keep stay.
find "$directory" -maxdepth 1 -name 'trialsync-*.dump' | sort -r | tail -n "+$((keep + 1))" | while read -r old; do
  rm -f "$old"
  echo "deleted: $old"
done
