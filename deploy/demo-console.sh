#!/usr/bin/env bash
# Runs Hookstream without a cluster, with emulators of Kong and Auth0, receivers of which some fail, and orders. Prints the
# address of the web console, and runs until Ctrl-C. Then it stops all its processes and removes its files.
# Needs bash, curl and the program. HOOKSTREAM_BIN overrides the path target/debug/hookstream.
set -euo pipefail
case ${HOOKSTREAM_BIN:-/} in /*) ;; *) HOOKSTREAM_BIN=$PWD/$HOOKSTREAM_BIN ;; esac
cd "$(dirname "$0")/.."
demo=demo-console
. deploy/demo-common.sh
processes() { echo "$pids"; }

# The program reads flags from HOOKSTREAM_* variables. Unset those of the caller, so that they cannot change the demo.
bin=${HOOKSTREAM_BIN:-${CARGO_TARGET_DIR:-target}/debug/hookstream}
for name in "${!HOOKSTREAM_@}"; do unset "$name"; done

tmp= pids= ready= interrupted=
finish() {
  code=$?
  trap - EXIT
  # An error from here on must not stop the cleanup.
  set +e
  if [ -z "$ready$interrupted" ] && [ -n "$tmp" ]; then
    show_logs "$tmp"
  fi
  for pid in $pids; do { kill -KILL "$pid"; wait "$pid"; } 2>/dev/null; done
  [ -n "$tmp" ] && rm -rf "$tmp"
  [ -n "$ready$interrupted" ] && code=0
  exit "$code"
}
trap finish EXIT
trap 'interrupted=yes; exit 0' INT TERM HUP

# start NAME ARGUMENT...: starts the program with its output in a file.
start() {
  local log=$tmp/$1.log
  shift
  "$bin" "$@" >"$log" 2>&1 &
  pids="$pids $!"
}
is_ready() { http -f -o /dev/null "http://127.0.0.1:$ops_port/readyz" 2>/dev/null; }
# publish ID EVENT DATA: publishes an event of the shop.
publish() {
  "$bin" send -n shop --source shop --id "$1" --event "$2" --data "$3" --url "http://127.0.0.1:$ingest_port" --output json >/dev/null 2>>"$tmp/send.log" ||
    fail "an event was not accepted"
}
# deliveries QUERY: the deliveries of the shop as JSON.
deliveries() { http -f "http://127.0.0.1:$api_port/v1/namespaces/shop/deliveries?$1" 2>/dev/null; }
has_dead_letter() { deliveries "state=dead" | grep -q '"hook": *"warehouse"'; }
has_delivery() { http -f "http://127.0.0.1:$api_port/v1/namespaces/$1/deliveries?hook=$2" 2>/dev/null | grep -q '"id"'; }
# emit PORT BODY: makes an emulator emit an event to a subscriber.
emit() { http -f -o /dev/null "http://127.0.0.1:$1/__emulator/events" --data "$2" 2>>"$tmp/emit.log"; }
emit_consumer() {
  emit "$kong_port" '{"source": "crud", "event": "consumers", "data": {"operation": "create", "entity": {"username": "ada"}}}' &&
    has_delivery gateway consumers
}
emit_user() {
  emit "$auth0_port" '{"type": "user.created", "data": {"object": {"user_id": "auth0|1", "email": "ada@example.com"}}}' &&
    has_delivery shop welcome-mail
}

command -v curl >/dev/null || fail "curl is missing: apt-get install curl"
[ -x "$bin" ] || fail "$bin is missing: run 'make build', or set HOOKSTREAM_BIN"
tmp=$(mktemp -d)
free_port && kong_port=$port
free_port && auth0_port=$port
free_port && ingest_port=$port
free_port && ops_port=$port
free_port && api_port=$port
free_port && good_port=$port
free_port && warehouse_port=$port
free_port && failing_port=$port
mkdir "$tmp/manifests"
for file in deploy/demo-console/*.yaml; do
  sed -e "s/127\.0\.0\.1:8001/127.0.0.1:$kong_port/" -e "s/127\.0\.0\.1:8002/127.0.0.1:$auth0_port/" \
    -e "s/127\.0\.0\.1:9001/127.0.0.1:$good_port/" -e "s/127\.0\.0\.1:9002/127.0.0.1:$warehouse_port/" \
    -e "s/127\.0\.0\.1:9003/127.0.0.1:$failing_port/" "$file" >"$tmp/manifests/$(basename "$file")"
done

start kong emulate kong --log-format text --listen "127.0.0.1:$kong_port"
start auth0 emulate auth0 --log-format text --listen "127.0.0.1:$auth0_port" --client-id demo --client-secret demo-not-a-secret --time-scale 0.01
start receiver receive --listen "127.0.0.1:$good_port"
start warehouse receive --listen "127.0.0.1:$warehouse_port" --fail-first 3
start failing receive --listen "127.0.0.1:$failing_port" --status 503
for port in $kong_port $auth0_port $good_port $warehouse_port $failing_port; do
  within 30 "the emulators and receivers to start" listens "$port"
done
start worker standalone --manifests "$tmp/manifests" --data "$tmp/data" --listen "127.0.0.1:$ingest_port" \
  --ops-listen "127.0.0.1:$ops_port" --api-listen "127.0.0.1:$api_port" --public-ingest-url "http://127.0.0.1:$ingest_port" \
  --keep-responses all
within 30 "the worker to become ready" is_ready

# The first three requests to the warehouse fail, and all three are attempts of this order.
publish order-4711 order.created '{"order": 4711, "customer": "Ada Lovelace", "total": 129.9, "items": [{"article": "A-17", "count": 2}]}'
within 30 "the dead letter of order 4711" has_dead_letter
for order in $(seq 4712 4731); do
  publish "order-$order" order.created "{\"order\": $order, \"customer\": \"Customer $order\", \"total\": $((order % 10 * 90)).5, \"items\": [{\"article\": \"B-$((order % 7))\", \"count\": 1}]}"
done
for invoice in $(seq 900 907); do
  publish "invoice-$invoice" invoice.sent "{\"invoice\": $invoice, \"order\": $((invoice + 3812))}"
done
for customer in 1 2 3; do
  publish "customer-$customer" customer.registered "{\"customer\": $customer, \"email\": \"customer$customer@example.com\"}"
done
publish order-4705-cancelled order.cancelled '{"order": 4705}'
within 60 "an event of Kong" emit_consumer
within 60 "an event of Auth0" emit_user

ready=yes
echo "Console: http://127.0.0.1:$api_port/console/"
echo "Question: why did order 4711 not arrive at the warehouse?"
echo "Ctrl-C stops everything."
# The worker was started last.
wait "${pids##* }" || true
ready=
fail "the worker ended unexpectedly"
