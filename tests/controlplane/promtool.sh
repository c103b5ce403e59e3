#!/usr/bin/env bash
# Runs promtool. Builds it once for each version from pinned Go modules, into the cache of the control plane.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${HOOKSTREAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hookstream}/promtool
version=$(sed -nE 's|^require github.com/prometheus/prometheus (v[^ ]+).*|\1|p; s|^[[:space:]]*github.com/prometheus/prometheus (v[^ ]+).*|\1|p' "$here/promtool/go.mod" | head -n 1)
tool=$cache/promtool-$version
if [ ! -x "$tool" ]; then
  command -v go >/dev/null || { echo "promtool: Go 1.26 or newer is missing: install it from https://go.dev/dl" >&2; exit 2; }
  echo "promtool: building $version" >&2
  mkdir -p "$cache"
  # Rename when complete: an interrupted build must not leave a truncated binary.
  (cd "$here/promtool" && go build -trimpath -ldflags "-s -w" -o "$tool.tmp" github.com/prometheus/prometheus/cmd/promtool)
  mv "$tool.tmp" "$tool"
fi
exec "$tool" "$@"
