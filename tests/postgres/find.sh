#!/usr/bin/env bash
# Prints the folder of PostgreSQL's server programs (no argument), or the path of pgbouncer (`find.sh pgbouncer`).
# Installs Debian's package where it is missing and this is root on Debian. No server is started by that.
set -euo pipefail
what=${1:-postgresql}
packages=$(dirname "$0")/../debian.sh

find_program() {
  if [ "$what" = pgbouncer ]; then
    PATH=$PATH:/usr/sbin command -v pgbouncer
    return
  fi
  # The newest version first. Debian keeps the server's programs out of PATH.
  local dir
  for dir in "${PG_BIN:-}" "$(dirname "$(readlink -f "$(command -v initdb)")")" $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV); do
    if [ -n "$dir" ] && [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
      (cd "$dir" && pwd)
      return
    fi
  done
  return 1
}

install_package() {
  echo "postgres: installing Debian's $what" >&2
  if [ "$what" = postgresql ]; then
    "$packages" postgresql-common
    sed -ri 's/^#?(create_main_cluster) .*/\1 = false/' /etc/postgresql-common/createcluster.conf
  fi
  "$packages" "$what"
}

if ! find_program; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    install_package && find_program && exit
  fi
  if [ "$what" = pgbouncer ]; then
    echo "postgres: pgbouncer is missing: install it (Debian: apt-get install pgbouncer)" >&2
  else
    echo "postgres: initdb and postgres of PostgreSQL 15 or later are missing: install them (Debian: apt-get install postgresql; macOS: brew install postgresql@17), or set PG_BIN to their folder" >&2
  fi
  exit 2
fi
