#!/usr/bin/env bash
# Builds the program that uses the vendor's SDK into a cache folder, once for each version of its sources.
# Prints the program's path on the last line.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${HOOKSTREAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hookstream}/go-auth0

command -v go >/dev/null || {
  echo "go-auth0: Go 1.26 or newer is missing: install it from https://go.dev/dl" >&2
  exit 2
}
version=$(sed -nE 's|.*github.com/auth0/go-auth0/v3 (v[^ ]+).*|\1|p' "$here/go.mod" | head -n 1)
# Hash the sources with git, because sha256sum has another name on macOS.
state=$(cat "$here/main.go" "$here/go.mod" "$here/go.sum" | git hash-object --stdin | cut -c1-12)
bin="$cache/$version-$state"
mkdir -p "$cache"

# Allow one build at a time: `make test` in two clones shares the cache.
exec 9>"$cache/.lock"
flock 9

if [ ! -x "$bin" ]; then
  echo "go-auth0: building ($bin)" >&2
  # Rename when complete: an interrupted build must not leave a truncated binary that later runs use.
  (cd "$here" && go build -trimpath -ldflags "-s -w" -o "$bin.tmp" .)
  mv "$bin.tmp" "$bin"
fi
echo "$bin"
