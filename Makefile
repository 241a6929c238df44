# Every target makes the virtual environment it needs; none but `clean` touches anything outside it.
# As root the missing Debian packages are installed; otherwise they are named and work goes on without them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
BENCH_STAMP := $(VENV)/.bench-stamp
# Extra arguments for pytest: make test ARGS="-k relay -x"
ARGS ?=
# Tests that run two at a time; the others, with hosts, loads and outages, need the machine for themselves.
TOGETHER := tests/registry tests/node_proxy $(wildcard tests/integration/test_http*.py) \
    $(addprefix tests/integration/test_,h2_clients.py routing_cases.py grpc.py)
# make demo KEEP=1 leaves the demo's mesh running until Ctrl-C.
KEEP ?=
# make bench ROUNDS=5 SECONDS=4 ONLY=nodemesh,envoy; without ONLY all of tests/bench.
ROUNDS ?= 5
SECONDS ?= 1
ONLY ?=

# command:package, for Debian and its kin.
TOOLS := ip:iproute2 ss:iproute2 nft:nftables curl:curl openssl:openssl ps:procps setpriv:util-linux \
    systemd-nspawn:systemd-container dropbear:dropbear-bin ssh:openssh-client \
    redis-check-rdb:redis-tools redis-cli:redis-tools \
    wrk:wrk h2load:nghttp2-client nghttpd:nghttp2-server

.DEFAULT_GOAL := help
.PHONY: help demo test check bench lock clean system

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## run a three-host mesh here and show what it does (KEEP=1 leaves it running)
	@KEEP="$(KEEP)" $(BIN)/python -m tests.demo

test: $(STAMP) ## run every test; those that need root are skipped off root only
ifeq ($(ARGS),)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(TOGETHER)
	@$(BIN)/python -m pytest $(addprefix --ignore=,$(TOGETHER))
else
	@$(BIN)/python -m pytest $(ARGS)
endif

check: $(STAMP) ## formatting, lint, types, import contracts, file sizes
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.support.file_sizes

bench: $(BENCH_STAMP) ## compare with Envoy, nginx, haproxy, stunnel (ROUNDS=, SECONDS= a job, ONLY=nodemesh,envoy)
	@sh tests/bench/install.sh
	@$(BIN)/python -m tests.bench --rounds $(ROUNDS) --seconds $(SECONDS) --only "$(ONLY)"
	@[ -n "$(ONLY)" ] || $(BIN)/python -m tests.bench.layer7 --rounds $(ROUNDS) --seconds $(SECONDS)
	@[ -n "$(ONLY)" ] || $(BIN)/python -m tests.bench.scaling
	@[ -n "$(ONLY)" ] || $(BIN)/python -m tests.bench.balancing

lock: .cache/uv/bin/uv ## pin every dependency with its hashes anew (set UPGRADE=--upgrade to move to newer ones)
	@env -u PIP_FIND_LINKS -u UV_FIND_LINKS .cache/uv/bin/uv pip compile --quiet $(UPGRADE) \
	    --generate-hashes --universal --python-version 3.11 \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    --extra dev --group test --group lint pyproject.toml --output-file requirements.lock

clean: ## remove the virtual environment and everything built or cached
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian keeps ip and nft in sbin, which is not on everybody's PATH.
system:
	@set -eu; missing=; PATH="$$PATH:/usr/sbin:/sbin"; \
	for pair in $(TOOLS); do \
	  command -v "$${pair%%:*}" >/dev/null 2>&1 || missing="$$missing $${pair#*:}"; \
	done; \
	"$(PYTHON)" -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$$missing python3-venv"; \
	/usr/bin/python3 -c 'import apt, ensurepip, venv' >/dev/null 2>&1 || missing="$$missing python3-venv python3-apt"; \
	missing=$$(echo $$missing | tr ' ' '\n' | sort -u | tr '\n' ' '); \
	[ -n "$$(echo $$missing)" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "installing Debian packages: $$missing"; \
	  apt-get -qq update; \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; \
	else \
	  echo "missing, and not root to install them: $$missing(what needs them is left out)"; \
	fi

$(STAMP): pyproject.toml requirements.lock | system
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "nodemesh needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" --version 2>&1)." \
	       "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "preparing $(VENV)"
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# Not in requirements.lock: only the plot needs it, and the figures do not need the plot.
$(BENCH_STAMP): $(STAMP)
	@group='import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["bench"])'; \
	if $(BIN)/python -c "$$group" | xargs $(BIN)/python -m pip install --quiet --disable-pip-version-check; \
	then touch $@; else echo "there will be no plot"; fi

.cache/uv/bin/uv:
	@"$(PYTHON)" -m venv .cache/uv
	@.cache/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
