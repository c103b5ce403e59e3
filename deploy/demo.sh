#!/usr/bin/env bash
# Shows Hookstream at work without a cluster, with the real subcommands and the manifests in deploy/samples/quickstart.
# Exits 0 only if every step that it prints succeeded. Stops all its processes and removes its files.
# Needs bash, curl and the program. HOOKSTREAM_BIN overrides the path target/debug/hookstream.
set -euo pipefail
case ${HOOKSTREAM_BIN:-/} in /*) ;; *) HOOKSTREAM_BIN=$PWD/$HOOKSTREAM_BIN ;; esac
cd "$(dirname "$0")/.."
demo=demo
. deploy/demo-common.sh
processes() { echo "$emulator $worker $receiver"; }

# The program reads flags from HOOKSTREAM_* variables. Unset those of the caller, so that they cannot change the demo.
bin=${HOOKSTREAM_BIN:-${CARGO_TARGET_DIR:-target}/debug/hookstream}
for name in "${!HOOKSTREAM_@}"; do unset "$name"; done

backlog=50
secret_of() { sed -nE "s/^  $1: *(.+)$/\1/p" deploy/samples/quickstart/secret.yaml; }

tmp= emulator= worker= receiver= done= interrupted=
finish() {
  code=$?
  trap - EXIT
  # An error from here on must not stop the cleanup.
  set +e
  if [ -z "$done$interrupted" ] && [ -n "$tmp" ]; then
    show_logs "$tmp"
  fi
  [ -z "$done" ] && [ "$code" = 0 ] && code=1
  for pid in $worker $receiver $emulator; do stop_process -KILL "$pid"; done
  [ -n "$tmp" ] && rm -rf "$tmp"
  exit "$code"
}
trap finish EXIT
trap 'interrupted=yes; exit 130' INT
trap 'interrupted=yes; exit 143' TERM HUP

say() { echo "   $*"; }
# Stops one of the demo's processes and waits for it. Suppresses the shell's message about its end.
stop_process() { { kill "$1" "$2"; wait "$2"; } 2>/dev/null || true; }

start_worker() {
  HOOKSTREAM_API_LISTEN=127.0.0.1:$api_port "$bin" standalone --manifests "$tmp/manifests" --data "$tmp/data" \
    --listen "127.0.0.1:$ingest_port" --ops-listen "127.0.0.1:$ops_port" >>"$tmp/worker.log" 2>&1 &
  worker=$!
}
start_receiver() { # OUTPUT [FLAG...]
  local output=$1
  shift
  "$bin" receive --listen "127.0.0.1:$receiver_port" --secret-file "$tmp/secret" --output json "$@" \
    >"$output" 2>>"$tmp/receiver.log" &
  receiver=$!
}
is_ready() { http -f -o /dev/null "http://127.0.0.1:$ops_port/readyz" 2>/dev/null; }

# Whether Kong has the hook for `consumers`. Sets `hook_id` and `hook_url`.
hook_is_in_kong() {
  local hooks
  hooks=$(http -f "$kong/event-hooks" 2>/dev/null) || return 1
  hook_url=$(grep -oE '"url": *"[^"]*/relays/consumers[?"]' <<<"$hooks" | cut -d'"' -f4 | cut -d'?' -f1)
  hook_id=$(grep -oE '"id": *"[^"]*"' <<<"$hooks" | cut -d'"' -f4)
  [ -n "$hook_url" ]
}
# Makes the Kong emulator emit an event about a consumer with the given name.
emit() {
  local answer
  answer=$(http -f "$kong/__emulator/events" --data \
    "{\"source\": \"crud\", \"event\": \"consumers\", \"data\": {\"operation\": \"create\", \"entity\": {\"username\": \"$1\"}}}") ||
    fail "the Kong emulator rejected an event"
  grep -qE '"matched": *1\b' <<<"$answer" || fail "the event matched no hook at Kong: $answer"
}
# The number of relays that the worker answered with 202, according to Kong's log.
relays_accepted() { grep -cE 'answered.* status=202' "$tmp/kong.log" || true; }
accepted() { [ "$(relays_accepted)" -ge "$1" ]; }

# The requests in a receiver's output whose body contains a name. The output file exists only after the first request.
requests() { grep -sF "$2" "$1" || true; }
count() { requests "$1" "$2" | grep -c . || true; }
attempts() { [ "$(count "$1" "$2")" -ge "$3" ]; }
status_of() { sed -nE 's/.*"signature":"([A-Za-z]*)","status":([0-9]*).*/\2 \1/p'; }
# The distinct names of the backlog that were delivered: answered with 200, with a valid signature.
delivered() { grep -sF '"signature":"valid","status":200' "$1" | grep -oE 'backlog-[0-9]{3}' | sort -u || true; }
all_delivered() { [ "$(delivered "$1")" = "$(for i in $(seq "$backlog"); do printf 'backlog-%03d\n' "$i"; done)" ]; }

command -v curl >/dev/null || fail "curl is missing: apt-get install curl"
[ -x "$bin" ] || fail "$bin is missing: run 'make build', or set HOOKSTREAM_BIN"
tmp=$(mktemp -d)
started=$SECONDS
free_port && kong_port=$port
free_port && ingest_port=$port
free_port && ops_port=$port
free_port && api_port=$port
free_port && receiver_port=$port
kong=http://127.0.0.1:$kong_port
mkdir "$tmp/manifests"
for file in deploy/samples/quickstart/*.yaml; do
  sed -e "s/127\.0\.0\.1:8001/127.0.0.1:$kong_port/" -e "s/127\.0\.0\.1:9000/127.0.0.1:$receiver_port/" \
    "$file" >"$tmp/manifests/$(basename "$file")"
done
secret_of signing-secret >"$tmp/secret"

echo "Hookstream without a cluster. The manifests are deploy/samples/quickstart, with free ports:"
say "Kong's admin API, emulated:  127.0.0.1:$kong_port"
say "the worker's ingest:         127.0.0.1:$ingest_port"
say "the receiver:                127.0.0.1:$receiver_port (answers 503 twice, checks signatures)"
"$bin" emulate kong --log-format text --listen "127.0.0.1:$kong_port" >"$tmp/kong.log" 2>&1 &
emulator=$!
start_receiver "$tmp/first.json" --fail-first 2
within 30 "the Kong emulator to start" listens "$kong_port"
within 30 "the receiver to start" listens "$receiver_port"
start_worker
within 30 "the worker to become ready" is_ready

echo "1. A hook declared in a manifest is in Kong's API"
within 30 "the hook in Kong" hook_is_in_kong
say "GET /event-hooks: id $hook_id"
say "its url: $hook_url"

echo "2. An event at Kong reaches the receiver on the third attempt"
before=$(relays_accepted)
emit ada
within 30 "the worker to answer Kong's relay with 202" accepted $((before + 1))
say "Kong relayed the event; the worker answered 202, so it is on disk"
within 30 "three attempts" attempts "$tmp/first.json" ada 3
requests "$tmp/first.json" ada | status_of >"$tmp/attempts"
sed 's/^\([0-9]*\) \(.*\)$/   the receiver answered \1, signature \2/' "$tmp/attempts"
[ "$(tr '\n' ',' <"$tmp/attempts")" = "503 valid,503 valid,200 valid," ] || fail "expected the statuses 503, 503, 200 with valid signatures"
ids=$(requests "$tmp/first.json" ada | grep -oE '"webhookId":"[^"]+"' | sort -u)
[ "$(grep -c . <<<"$ids")" = 1 ] || fail "the three attempts do not carry one webhook-id: $ids"
say "webhook-id of all three: $(cut -d'"' -f4 <<<"$ids")"

echo "3. An event published to the worker's API, without Kong"
"$bin" send -n default --source shop --event order.created --data '{"order": "first-order"}' \
  --url "http://127.0.0.1:$ingest_port" --output json >"$tmp/sent" || fail "the event was not accepted"
say "accepted: $(cat "$tmp/sent")"
within 30 "the delivery of the order" attempts "$tmp/first.json" first-order 1
[ "$(requests "$tmp/first.json" first-order | status_of | head -n 1)" = "200 valid" ] || fail "the order was not delivered with a valid signature"
say "the receiver answered 200, signature valid"

echo "4. kill -9 of the worker with a backlog of $backlog events"
stop_process -TERM "$receiver"
receiver=
say "the receiver is stopped: nothing can be delivered"
before=$(relays_accepted)
for i in $(seq "$backlog"); do emit "$(printf 'backlog-%03d' "$i")"; done
within 60 "the worker to answer $backlog relays with 202" accepted $((before + backlog))
say "Kong emitted and relayed $backlog events, each answered 202"
killed=$worker
worker=
stop_process -KILL "$killed"
say "kill -9 $killed (the worker)"
start_worker
within 30 "the restarted worker to become ready" is_ready
say "the worker is restarted with the same data folder"
start_receiver "$tmp/second.json"
within 60 "the delivery of $backlog events" all_delivered "$tmp/second.json"
say "the receiver is restarted: $(delivered "$tmp/second.json" | grep -c .) of $backlog delivered, all signatures valid"
[ "$(relays_accepted)" = $((before + backlog)) ] || fail "Kong relayed an event again, so the backlog did not come from the worker's disk alone"
! grep -vqF '"signature":"valid"' "$tmp/second.json" || fail "the receiver got a request without a valid signature"

done=yes
echo "The demo succeeded in $((SECONDS - started)) s. All processes are stopped."
