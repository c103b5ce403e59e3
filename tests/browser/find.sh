#!/usr/bin/env bash
# Prints the paths of chromium and of chromedriver, on two lines. Installs Debian's packages where they are missing and this
# is root on Debian. Exit code 2: there is none.
set -euo pipefail

find_programs() {
  local browser
  for browser in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [ -n "$browser" ] && command -v "$browser" >/dev/null && command -v "${CHROMEDRIVER:-chromedriver}" >/dev/null; then
      command -v "$browser"
      command -v "${CHROMEDRIVER:-chromedriver}"
      return
    fi
  done
  return 1
}

if ! find_programs; then
  # Ubuntu's package is a transition to snap, which does not run as root in a container.
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ "$(. /etc/os-release && echo "$ID")" = debian ]; then
    echo "browser: installing Debian's chromium and chromium-driver" >&2
    "$(dirname "$0")/../debian.sh" chromium chromium-driver fonts-dejavu-core && find_programs && exit
  fi
  echo "browser: chromium and chromedriver are missing: install them (Debian: apt-get install chromium chromium-driver), or set CHROMIUM and CHROMEDRIVER" >&2
  exit 2
fi
