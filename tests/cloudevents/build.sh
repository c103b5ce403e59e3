#!/usr/bin/env bash
# Installs the programs that use the CloudEvents SDKs of Go and Python into a cache folder, once for each version of their
# sources. Prints the folder on the last line; it contains the programs `go` and `python`.
# Exits with 2 if Go or Python is missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${HOOKSTREAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hookstream}/cloudevents

missing() {
  echo "cloudevents: $1" >&2
  exit 2
}
command -v go >/dev/null || missing "Go 1.26 or newer is missing: install it from https://go.dev/dl"
python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
  missing "Python 3.10 or newer with venv is missing"

# Hash the sources with git, because sha256sum has another name on macOS.
state=$(cat "$here"/{main.go,go.mod,go.sum,events.py,requirements.txt} | git hash-object --stdin | cut -c1-12)
bin="$cache/$state"
mkdir -p "$cache"

# Allow one build at a time: `make test` in two clones shares the cache.
exec 9>"$cache/.lock"
flock 9

if [ ! -d "$bin" ]; then
  echo "cloudevents: installing the SDKs ($bin)" >&2
  # Rename when complete: an interrupted build must not leave a part that later runs use. The virtual environment is not
  # moved, because it contains its own path.
  rm -rf "$bin.tmp" "$bin.venv" && mkdir "$bin.tmp"
  (cd "$here" && go build -trimpath -ldflags "-s -w" -o "$bin.tmp/go" .)
  python3 -m venv "$bin.venv"
  "$bin.venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$here/requirements.txt" >&2
  cp "$here/events.py" "$bin.tmp/events.py"
  printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$bin.venv/bin/python" "$bin/events.py" >"$bin.tmp/python"
  chmod +x "$bin.tmp/python"
  mv "$bin.tmp" "$bin"
fi
echo "$bin"
