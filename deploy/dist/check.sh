#!/usr/bin/env bash
# Checks a program before it is published: it starts, and Lua functions succeed and fail in its sandbox, which an unwinder that
# was linked wrongly breaks. With `static`, it also needs neither a loader nor a library of the machine. Needs readelf for that.
# With `no-run` too, for a machine that cannot run the program, it checks only that.
#   deploy/dist/check.sh PROGRAM [static [no-run]]
set -euo pipefail
program=$(readlink -f "$1")
fail() { echo "check: $program $*" >&2; exit 1; }

if [ "${2:-}" = static ]; then
  needs=$(readelf --wide --program-headers --dynamic "$program") || fail "cannot be read"
  case $needs in *INTERP* | *'(NEEDED)'*) fail "is not static" ;; esac
fi
[ "${3:-}" = no-run ] && exit

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/hooks.yaml" <<'END'
apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata: {name: succeeds}
spec:
  source: check
  handler:
    lambda:
      functions:
      - |
        return function (data)
          local is_ok, problem = pcall(error, { code = data.number })
          return not is_ok and problem.code == 7
        end
---
apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata: {name: fails}
spec:
  source: check
  handler: {lambda: {functions: ["return function (data) error('raised ' .. data.number) end"]}}
END
"$program" version --client >/dev/null || fail "does not start"
run() { "$program" test -f "$folder/hooks.yaml" --hook "$1" --data '{"number": 7}' 2>&1; }
output=$(run succeeds) || fail "does not run a Lua function: $output"
code=0
output=$(run fails) || code=$?
case "$code $output" in '1 '*'raised 7'*) ;; *) fail "reports the error of a Lua function wrongly ($code): $output" ;; esac
