# The targets are stable: scripts and CI call them by name. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

CARGO ?= cargo
# CI must build what Cargo.lock says; a developer who adds a dependency must be able to change it.
LOCKED := $(if $(CI),--locked)
# How many times the long tests of `make soak` do their work.
SOAK_CYCLES ?= 200
# How long `make fuzz` spends on each target.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := publish relay stream_auth retry_after signature headers duration filter url template manifest admin_object sandbox

.PHONY: help build lint words deny test demo controlplane cluster crds charts promtool bench soak fuzz check-rust check-tools

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: check-rust ## build the program (dev profile) into target/debug/hookstream
	$(CARGO) build $(LOCKED)

lint: check-rust words deny ## formatting, clippy with warnings denied, generated CRDs unchanged, words, licences
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	echo "hookstream crds --output $$dir; diff -ru crds $$dir"; \
	$(CARGO) run -q $(LOCKED) -- crds --output "$$dir"; \
	diff -ru crds "$$dir" || { echo "lint: crds/ is not what src/api makes: run 'make crds'" >&2; exit 1; }

words: ## reject dialect phrases in code, comments and documents (.ci/words.txt)
	.ci/words

deny: ## licences, banned crates and sources, offline; skipped where cargo-deny is not installed
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --offline --log-level error check licenses bans sources; \
	else echo "deny: skipped, cargo-deny is not installed (cargo install cargo-deny)"; fi

test: check-tools controlplane ## all tests, against a real control plane too
	$(CARGO) test $(LOCKED)

demo: build ## show it at work, without a cluster
	deploy/demo.sh

controlplane: check-tools ## build the control plane of the tests into the user's cache
	tests/controlplane/build.sh

cluster: check-tools controlplane ## keep a control plane with the CRDs running until Ctrl-C, for kubectl and a local operator
	$(CARGO) test -q $(LOCKED) --test it keeps_a_control_plane_running -- --ignored --nocapture

crds: check-rust ## write crds/ again, after a change in src/api
	$(CARGO) run -q $(LOCKED) -- crds --output crds

charts: crds ## write what is made from other files: in charts/ and docs/
	HOOKSTREAM_WRITE=1 $(CARGO) test -q $(LOCKED) --test it generated::

promtool: ## the unit tests of the alerts; builds promtool from Go modules, which takes minutes, once
	tests/controlplane/promtool.sh check rules deploy/observability/alerts.yaml
	tests/controlplane/promtool.sh test rules deploy/observability/alerts_test.yaml

bench: check-tools controlplane ## durable events a second as a ratio to a bare relay; templates and lambdas; many hooks, a hanging receiver, a restart; BENCH_OBJECTS=10000 objects of the controller
	$(CARGO) bench $(LOCKED) --bench relay
	$(CARGO) bench $(LOCKED) --bench worker
	$(CARGO) bench $(LOCKED) --bench scripts
	$(CARGO) bench $(LOCKED) --bench controller
	$(CARGO) test $(LOCKED) --release --lib -- --ignored --nocapture --test-threads 1 store_

soak: check-tools controlplane ## the long tests, SOAK_CYCLES=200 cycles each
	SOAK_CYCLES=$(SOAK_CYCLES) $(CARGO) test $(LOCKED) --test it soak -- --ignored --nocapture

fuzz: check-rust ## foreign bytes against every parser, FUZZ_SECONDS=60 each (nightly and cargo-fuzz)
	@missing=; $(need_fuzz); [ -z "$$missing" ]
	# The linker folds two constants of SQLite's into one, which the sanitizer takes for a fault.
	export ASAN_OPTIONS=detect_odr_violation=0; for target in $(FUZZ_TARGETS); do \
	  $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=20; \
	done

# One line a missing tool, with how to get it.
need = command -v $(1) >/dev/null || { echo "missing: $(2)" >&2; missing=1; }
need_rust = $(call need,$(CARGO),Rust 1.95 or newer: install it from https://rustup.rs)
need_cc = $(call need,cc,a C compiler: apt-get install build-essential (Debian$(comma) Ubuntu) or xcode-select --install (macOS))
need_go = $(call need,go,Go 1.26 or newer$(comma) which builds the control plane of the tests: install it from https://go.dev/dl)
need_python = $(call need,python3,Python 3 with pip$(comma) which checks signatures with another library: apt-get install python3 python3-pip (Debian$(comma) Ubuntu))
need_fuzz = $(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { echo "missing: cargo-fuzz: rustup toolchain install nightly, cargo install cargo-fuzz" >&2; missing=1; }
comma := ,

check-rust:
	@missing=; $(need_rust); $(need_cc); [ -z "$$missing" ]

check-tools: ## tell which tools are missing and how to install them
	@missing=; $(need_rust); $(need_cc); $(need_go); $(need_python); [ -z "$$missing" ]
