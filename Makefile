# One command per job. `make` alone lists them.
#
# Needs make, git and Python 3.11 or 3.12 with venv; everything else is
# installed into .venv on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 1000
LOAD ?= swarm
SECONDS ?= 60
HOURS ?= 8
# Four tests at a time pay even on two cores: most of them wait for something.
# Each worker begins with tests that lie side by side, so that few servers of a module are started
# twice.
FAST_FLAGS ?= -n 4 --dist worksteal
SLOW_FLAGS ?= -n 4 --dist worksteal
# Whose time ran out on a busy machine runs once more, at most three tests of a run, each told by
# name with its traceback. A wrong value, a lost write, a broken promise fails at once.
RERUN_FLAGS ?= --reruns 1 --max-suite-reruns 3 --rerun-show-tracebacks \
	--only-rerun '^(TimeoutError|TimeoutExpired|TimedOut):' --only-rerun '^Failed: Timeout' \
	--only-rerun DEADLINE_EXCEEDED --only-rerun 'timed out' --rerun-except '^AssertionError'
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run test check docs fix proto bench sim jepsen jepsen-long compose-test fuzz clean

help: ## List the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# --- the environment ---------------------------------------------------------
# Three stamps, so that `make run` installs no tools and `make test` no plots.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v in ((3, 11), (3, 12)) or sys.exit("raftkv needs Python 3.11 or 3.12, but $(PYTHON) is %d.%d: set PYTHON=..." % v)'
	$(PYTHON) -m venv $(VENV)
	@# The pip of Debian 12 knows no dependency groups.
	$(PIP) --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.runtime: $(VENV)/.python pyproject.toml
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --group dev
	@touch $@

$(VENV)/.bench: $(VENV)/.runtime
	$(PIP) --editable '.[bench]'
	@touch $@

# --- commands ----------------------------------------------------------------

run: $(VENV)/.runtime ## Run a three-node cluster in the foreground, data in ./data
	$(BIN)/raftkv local --nodes 3 --data-dir ./data

test: $(VENV)/.dev ## Run every test, the fast ones first
	@scripts/test-packages.sh
	@status=0; \
	$(BIN)/pytest -m 'not slow' $(FAST_FLAGS) $(RERUN_FLAGS) || status=$$?; \
	$(BIN)/pytest -m slow $(SLOW_FLAGS) $(RERUN_FLAGS) || status=$$?; \
	exit $$status

check: $(VENV)/.dev ## Lint, types, generated code, architecture; writes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/generate_sync.py --check
	$(BIN)/pytest tests/test_architecture.py

docs: $(VENV)/.dev ## Make the documents' site in docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo 'open docs/_build/html/index.html'

fix: $(VENV)/.dev ## Mend what the linter and the formatter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/.dev ## Generate raftkv/pb from protos, and the synchronous client
	scripts/generate-protos.sh $(BIN)/python .
	$(BIN)/python scripts/generate_sync.py

bench: $(VENV)/.bench ## Measure against etcd on this machine
	$(BIN)/python -m bench

sim: $(VENV)/.runtime ## Run SEEDS=1000 simulated clusters, LOAD=swarm, calm, mixed or watch
	$(BIN)/python -m raftkv.sim --seeds $(SEEDS) --load $(LOAD) $(if $(TOTALS),--totals $(TOTALS))

jepsen: $(VENV)/.dev ## Break real clusters for ten minutes and check every answer
	$(BIN)/python -m jepsen_lite series --minutes 10

jepsen-long: $(VENV)/.dev ## The same for HOURS=8
	$(BIN)/python -m jepsen_lite series --hours $(HOURS)

compose-test: $(VENV)/.dev ## Build the image and break a docker-compose cluster of it
	@PYTHON=$(BIN)/python scripts/compose-test.sh

fuzz: $(VENV)/.dev ## Feed the wire code random bytes for SECONDS=60
	$(BIN)/python -m tests.fuzz.fuzz_wire --seconds $(SECONDS)

clean: ## Remove the environment, caches and ./data
	rm -rf $(VENV) data docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
