# Functions of demo.sh and demo-console.sh, which source it. `demo` is the name of the caller for messages, and its function
# `processes` prints the process ids that must not end.

fail() { echo "$demo: $*" >&2; exit 1; }
http() { curl -q -sS --noproxy '*' --max-time 5 "$@"; }
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# within SECONDS WHAT COMMAND...: retries the command until it succeeds. Fails at the deadline, or when a process of the
# demo has ended.
within() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    for pid in $(processes); do
      kill -0 "$pid" 2>/dev/null || fail "a process ended unexpectedly while waiting for: $what"
    done
    [ "$SECONDS" -lt "$deadline" ] || fail "timed out waiting for: $what"
    sleep 0.1
  done
}

# Finds an unused port below the ephemeral range, whose ports another process could get at any time. Sets `port`.
taken=" "
free_port() {
  local try
  for try in $(seq 100); do
    port=$((20000 + RANDOM % 10000))
    case $taken in *" $port "*) continue ;; esac
    if ! listens "$port"; then
      taken="$taken$port "
      return
    fi
  done
  fail "no free port found on 127.0.0.1 between 20000 and 29999"
}

# show_logs FOLDER: the last lines of each log.
show_logs() {
  local log
  for log in "$1"/*.log; do
    [ -s "$log" ] || continue
    echo "--- last lines of $(basename "$log")" >&2
    tail -n 15 "$log" >&2
  done
}
