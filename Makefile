# The targets are stable, because scripts and CI call them by name. `make` without a target lists them.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

CARGO ?= cargo
# CI must build exactly the versions of Cargo.lock; a developer who adds a dependency must be able to change it.
LOCKED := $(if $(CI),--locked)
# The number of cycles of each long test of `make soak`.
SOAK_CYCLES ?= 200
# The seconds that `make soak` runs the hostile load.
SOAK_SECONDS ?= 600
# The seconds that `make fuzz` runs each target.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := publish relay stream_auth retry_after webhook_handshake signature headers duration filter url template manifest admin_object sandbox

.PHONY: help build lint words deny test demo demo-console controlplane cluster dist crds charts promtool bench bench-quick soak fuzz check-rust check-tools

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: check-rust ## build the program (dev profile) into target/debug/hookstream
	$(CARGO) build $(LOCKED)

lint: check-rust words deny ## check formatting, clippy with warnings denied, that generated CRDs are current, words, licences
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	echo "hookstream crds --output $$dir; diff -ru crds $$dir"; \
	$(CARGO) run -q $(LOCKED) -- crds --output "$$dir"; \
	diff -ru crds "$$dir" || { echo "lint: crds/ differs from the types in src/api: run 'make crds'" >&2; exit 1; }

words: ## reject dialect phrases in code, comments and documents (.ci/words.txt)
	.ci/words

deny: ## check licences, banned crates and sources, offline; skipped where cargo-deny is not installed
	@if command -v cargo-deny >/dev/null; then $(CARGO) fetch -q --locked && $(CARGO) deny --offline --log-level error check licenses bans sources; \
	else echo "deny: skipped, cargo-deny is not installed (cargo install cargo-deny)"; fi

test: check-tools controlplane ## run all tests, including those against a real control plane
	$(CARGO) test $(LOCKED)
	@# Tests that need more of the machine than a compiler are ignored by default, and run here where they can.
	@if unshare -Urm mount -t tmpfs none /mnt 2>/dev/null; then \
	  unshare -Urm $(CARGO) test -q $(LOCKED) --lib --test it -- --ignored needs_mount; \
	else echo "test: ignored needs_mount: this machine allows no user namespaces (unshare -Urm)"; fi
	@if unshare -Ur true 2>/dev/null && { command -v umoci >/dev/null || tests/debian.sh umoci; }; then \
	  $(CARGO) test -q $(LOCKED) --test it -- --ignored needs_debian; \
	else echo "test: ignored needs_debian: this machine has no umoci (the line above says why) or allows no user namespaces"; fi
	@if ip route get 192.0.2.1 >/dev/null 2>&1; then \
	  $(CARGO) test -q $(LOCKED) --test it -- --ignored needs_address; \
	else echo "test: ignored needs_address: this machine has no address other than loopback"; fi
	@if tests/browser/find.sh >/dev/null; then \
	  $(CARGO) test -q $(LOCKED) --test browser -- --ignored needs_chromium; \
	else echo "test: ignored needs_chromium: Chromium and chromedriver are missing (the line above says how to install them)"; fi

demo: build ## demonstrate the program without a cluster
	deploy/demo.sh

demo-console: build ## run a worker with orders, of which one did not arrive, and print the address of its web console
	deploy/demo-console.sh

controlplane: check-tools ## build the control plane of the tests into the user's cache
	tests/controlplane/build.sh

cluster: check-tools controlplane ## keep a control plane with the CRDs running until Ctrl-C, for kubectl and a local operator
	$(CARGO) test -q $(LOCKED) --test it keeps_a_control_plane_running -- --ignored --nocapture

dist: check-rust ## build what a release publishes into target/release-files: archives, image, SBOM, checksums, manifests
	deploy/dist/dist.sh

crds: check-rust ## regenerate crds/ after a change in src/api
	$(CARGO) run -q $(LOCKED) -- crds --output crds

charts: crds ## regenerate the generated files in charts/, deploy/ and docs/
	HOOKSTREAM_WRITE=1 $(CARGO) test -q $(LOCKED) --test it generated::

promtool: ## run the unit tests of the alerts; the first run builds promtool from Go modules, which takes minutes
	tests/controlplane/promtool.sh check rules deploy/observability/alerts.yaml
	tests/controlplane/promtool.sh test rules deploy/observability/alerts_test.yaml

bench: check-tools controlplane ## measure durable events per second on a large store relative to plain relays, stalls, fan-out, templates and lambdas, many hooks, a hanging receiver, hostile neighbours, a restart, the PostgreSQL store, the pages of the web console, and the controller with BENCH_OBJECTS=10000 objects
	BENCH_PLOTS=docs/images $(CARGO) bench $(LOCKED) --bench relay
	$(CARGO) bench $(LOCKED) --bench worker
	$(CARGO) bench $(LOCKED) --bench scripts
	$(CARGO) bench $(LOCKED) --bench controller
	$(CARGO) bench $(LOCKED) --bench cli
	$(CARGO) bench $(LOCKED) --bench console
	$(CARGO) bench $(LOCKED) --bench postgres
	$(CARGO) test $(LOCKED) --release --lib -- --ignored --nocapture --test-threads 1 store_million_backlog

bench-quick: check-rust ## print the main ratios on a filled store, in under two minutes after the first run (BENCH_KEYS, BENCH_DELIVERIES)
	$(CARGO) bench $(LOCKED) --bench relay -- quick

soak: check-tools controlplane ## run the long tests, SOAK_CYCLES=200 cycles each, and SOAK_SECONDS=600 of hostile load
	SOAK_CYCLES=$(SOAK_CYCLES) $(CARGO) test $(LOCKED) --test it soak -- --ignored --nocapture
	SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) bench $(LOCKED) --bench worker -- soak

fuzz: check-rust ## fuzz every parser of untrusted input, FUZZ_SECONDS=60 each (needs nightly and cargo-fuzz)
	@missing=; $(need_fuzz); [ -z "$$missing" ]
	# The linker merges two constants of SQLite, which the sanitizer reports as an ODR violation.
	export ASAN_OPTIONS=detect_odr_violation=0; for target in $(FUZZ_TARGETS); do \
	  $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=20; \
	done

# Each check prints one line if its tool is missing, with the command to install it.
need = command -v $(1) >/dev/null || { echo "missing: $(2)" >&2; missing=1; }
need_rust = $(call need,$(CARGO),Rust 1.95 or newer: install it from https://rustup.rs)
need_cc = $(call need,cc,a C compiler: apt-get install build-essential (Debian$(comma) Ubuntu) or xcode-select --install (macOS))
need_go = $(call need,go,Go 1.26 or newer$(comma) which builds the control plane of the tests: install it from https://go.dev/dl)
need_python = $(call need,python3,Python 3 with pip$(comma) which checks signatures with another library: apt-get install python3 python3-pip (Debian$(comma) Ubuntu))
need_curl = $(call need,curl,curl 7.82 or newer$(comma) which the tests of the documents run: apt-get install curl (Debian$(comma) Ubuntu))
need_postgres = tests/postgres/find.sh >/dev/null || missing=1
need_fuzz = $(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { echo "missing: cargo-fuzz: rustup toolchain install nightly, cargo install cargo-fuzz" >&2; missing=1; }
comma := ,

check-rust:
	@missing=; $(need_rust); $(need_cc); [ -z "$$missing" ]

check-tools: ## list missing tools and how to install them
	@missing=; $(need_rust); $(need_cc); $(need_go); $(need_python); $(need_curl); $(need_postgres); [ -z "$$missing" ]
