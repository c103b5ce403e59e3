#!/usr/bin/env bash
# Fetches axe-core, the accessibility checker of the browser tests, from the npm registry into the user's cache, once for each
# version. Prints the path of its script. The program does not contain it.
set -euo pipefail
version=4.14.1
integrity=FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==
cache=${HOOKSTREAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hookstream}/axe-core
script=$cache/axe-$version.min.js

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [ ! -f "$script" ]; then
  dir=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$dir"' EXIT
  echo "browser: fetching axe-core $version ($cache)" >&2
  if command -v npm >/dev/null; then
    npm pack --silent --pack-destination "$dir" "axe-core@$version" >&2
  else
    curl -q -fsSL --retry 3 -o "$dir/axe-core-$version.tgz" "https://registry.npmjs.org/axe-core/-/axe-core-$version.tgz"
  fi
  found=$(openssl dgst -sha512 -binary "$dir/axe-core-$version.tgz" | base64 | tr -d '\n')
  [ "$found" = "$integrity" ] || { echo "browser: axe-core-$version.tgz has the checksum sha512-$found instead of sha512-$integrity" >&2; exit 2; }
  tar -xzf "$dir/axe-core-$version.tgz" -C "$dir" package/axe.min.js
  # Rename when complete: an interrupted fetch must not leave a truncated script.
  mv "$dir/package/axe.min.js" "$script"
fi
echo "$script"
