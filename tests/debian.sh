#!/usr/bin/env bash
# Installs Debian packages that tests need: tests/debian.sh PACKAGE... Prints nothing where it succeeds.
# Exit code 2: this is not root, there is no apt, or apt failed (its output is on standard error).
set -euo pipefail
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "tests: $*: cannot be installed without root and apt" >&2; exit 2; }

# Two test programs that start together must not both run apt.
exec 9>"${TMPDIR:-/tmp}/hookstream-apt.lock"
flock 9
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# RUNLEVEL=1 keeps invoke-rc.d from starting a package's own service on its standard port.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
# A session of its own: a test run that is stopped must not stop dpkg half-way, because every later apt would then fail.
apt() { setsid --wait apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" 9>&-; }
install() { apt install -y --no-install-recommends "$@"; }
{
  # A dpkg that was killed before makes every apt fail until this has run.
  setsid --wait dpkg --configure -a &&
    # Without an index, or with one whose packages the mirror has replaced, the first attempt fails.
    { install "$@" || { apt update && install "$@"; }; }
} >"$log" 2>&1 </dev/null || { cat "$log" >&2; echo "tests: $*: could not be installed" >&2; exit 2; }
