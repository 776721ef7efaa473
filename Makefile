# Everything lives in .venv; a fresh machine needs only Python 3.11 or newer (`make PYTHON=python3.12 setup` picks one)
# and make. Locks hold names, versions and hashes, and nothing is installed that does not match them.
.DEFAULT_GOAL := check
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
INTEGRATIONS := integrations/langchain
PROJECTS := pyproject.toml $(INTEGRATIONS:%=%/pyproject.toml)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set, pytest compiles every test anew at each run.
unexport PYTHONDONTWRITEBYTECODE

# uv is quick; pip does the same where a mirror is configured for pip alone. Both refuse a file whose hash differs.
install = $(UV) pip install --quiet --python $(BIN)/python --require-hashes -r $(1) \
	|| $(BIN)/python -m pip install --quiet --require-hashes -r $(1)
# --no-deps: "agentguard" and "agentguard-*" are never looked up in an index. The build backend comes from the lock.
link = $(UV) pip install --quiet --python $(BIN)/python --offline --no-deps --no-build-isolation \
	-e . $(INTEGRATIONS:%=-e %)

# In two processes; tests/workers.py says which test runs in which. Without -n everything runs in one.
pytest = $(BIN)/pytest -n 2

.PHONY: setup demo test check lint bench services-up services-down lock clean

setup: .venv/.setup  # the whole development environment

demo: .venv/.demo  # an agent whose task is hijacked; needs no key and no server
	$(BIN)/python -m examples.support_desk

# The servers are stopped whatever happens, Ctrl-C too, and the exit code stays that of the tests. A test that does not
# find its server fails here: it would be skipped otherwise.
test: setup lint  # everything, with real servers
	@trap '$(services) down' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
		$(services) up && AGENTGUARD_SERVICES=required $(pytest)

check: setup lint  # what to run before a commit; no servers; under a minute
	$(pytest) -q -m "not slow and not services" tests

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: setup  # one table: figure, bar, verdict; BENCH=--all runs what needs servers and minutes too
	$(BIN)/python -m bench $(BENCH)

# PostgreSQL, OpenBao, Cerbos, an authorization server, a SPIFFE Workload API and a collector on free ports of 127.0.0.1, for tests/services.
services = $(BIN)/python -m tests.services

services-up: setup  # they stay up until services-down; addresses in .services/endpoints.json
	$(services) up

services-down:
	@test ! -x $(BIN)/python || $(services) down

.venv/.setup: requirements/dev.lock $(UV) $(PROJECTS)
	$(call install,$<)
	$(link)
	@touch .venv/.demo $@

.venv/.demo: requirements/demo.lock $(UV) $(PROJECTS)
	$(call install,$<)
	$(link)
	@touch $@

$(UV): requirements/installer.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	$(BIN)/python -m pip install --quiet --require-hashes -r $<
	@touch $@

# `make lock` keeps what is locked and adds what is new; `make lock UPGRADE=--upgrade` takes the newest of everything.
compile = $(UV) pip compile --quiet --no-config $(UPGRADE) --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	--no-emit-package agentguard $(INTEGRATIONS:integrations/%=--no-emit-package agentguard-%)

lock: $(UV)
	$(compile) $(PROJECTS) --all-extras --group dev --group bench -o requirements/dev.lock
	$(compile) $(PROJECTS) --group demo -c requirements/dev.lock -o requirements/demo.lock
	echo uv | $(compile) - -o requirements/installer.lock
	$(compile) --group services -o requirements/services.lock
	for peer in agt delcred hallmark keycard; do grep -ohE '^(langchain-core|pydantic)==[^ ]+' requirements/dev.lock \
		| cat requirements/peers-$$peer.in - | $(compile) - -o requirements/peers-$$peer.lock || exit 1; done

clean:
	-@test ! -x $(BIN)/python || $(services) down
	rm -rf .services .peers .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .benchmarks build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
