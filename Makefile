# The two commands of this project are `make run` and `make test`; the rest serves developers.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# On two cores: tests wait for clocks and databases, too.
WORKERS ?= 3

# What stands behind `##` is what `make help` prints.
.PHONY: help run test test-fast test-engines test-faults mutants soak lint types proto tables bench docs pages clean

run: $(VENV)/.run  ## serve the etcd API on 127.0.0.1:2379, metrics on port 8080; KINE_ARGS="--debug"
	$(BIN)/kine --listen-address 127.0.0.1:2379 $(KINE_ARGS)

# BACKENDS=sqlite, or "sqlite memory": the shared suite on these only, and no package of the system is installed.
BACKENDS ?=
ONLY := $(addprefix --backend ,$(BACKENDS))
TESTED := $(if $(BACKENDS),$(VENV)/.packages,$(VENV)/.test)

test: $(TESTED)  ## run the tests; BACKENDS=sqlite: without installing database servers
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pytest -n $(WORKERS) -m "not engines" $(ONLY) $(PYTEST_ARGS)

# Between edits: the API, the store, SQLite and the transports, on the two backends that need no other server.
FAST ?= tests/unit tests/etcd tests/store tests/sqlite tests/transport
test-fast: $(VENV)/.packages  ## between edits: the API, the store, SQLite
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pytest -n $(WORKERS) -m "not slow and not engines" \
		--backend memory --backend sqlite --transport http2 $(FAST) $(PYTEST_ARGS)

# What takes longer than `make test` may; CI runs both.
test-engines: $(VENV)/.test  ## what takes longer, or a database server of its own
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pytest -n $(WORKERS) -m engines $(PYTEST_ARGS)

# FAULTS="--minutes 60", or "--backend mysql --ops 100000 --seed 1"; FUZZ="--minutes 60"; see --help
test-faults: $(VENV)/.test  ## fuzz, and faults under traffic; FAULTS="--minutes 60"
	$(BIN)/python -m tests.fuzz $(FUZZ)
	$(BIN)/python -m tests.faults $(FAULTS)

# MUTANTS="run --number 300 --seed 2", or record, changed, docs; see --help
mutants: $(VENV)/.test  ## put faults into the code, to see whether a test fails
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.mutants $(or $(MUTANTS),run)

# SOAK="--start kine-postgres --minutes 10"; see --help
soak: $(VENV)/.test  ## load for an hour, with 5,000 watches
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m bench soak $(SOAK)

lint: $(VENV)/.test  ## ruff, the workflows, the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	! test -x $(BIN)/hadolint || $(BIN)/hadolint Dockerfile.release
	! command -v actionlint >/dev/null || actionlint

types: $(VENV)/.test  ## mypy --strict
	$(BIN)/mypy

# BENCH="--go-kine PATH --go-kine-nats PATH"; takes 15 to 20 minutes of a machine that does nothing else
bench: $(VENV)/.test  ## measure all of docs/performance, on an idle machine
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m bench all $(BENCH)

docs: $(VENV)/.docs  ## build the site of docs/ into build/site; a dead link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

proto: $(VENV)/.test  ## generate the messages from kine/proto
	$(BIN)/pip install --quiet --group proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. kine/proto/*.proto

# A stamp a set of packages: made again when the project's dependencies change.
$(VENV)/.run: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("kine needs Python 3.11 or newer: make run PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.packages: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]' --group test --group lint
	touch $@

$(VENV)/.docs: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --disable-pip-version-check --group docs
	touch $@

# Database servers and compilers come from the system's package manager, with root rights where there are some.
$(VENV)/.test: $(VENV)/.packages tests/install.sh
	BIN=$(BIN) bash tests/install.sh
	! command -v krb5-config >/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[kerberos]'
	touch $@

pages: $(VENV)/.packages  ## write the generated parts of the pages: flags, commands, messages, figures
	$(BIN)/python docs/flags.py
	$(BIN)/python docs/commands.py
	$(BIN)/python docs/messages.py
	$(BIN)/python -m bench figures

tables: $(VENV)/.test  ## generate the statements that make the tables
	$(BIN)/python -m kine.drivers.sql.table_definitions
	$(BIN)/ruff format --quiet kine/drivers/sql/ddl.py

clean:  ## remove the virtual environment and what was built
	rm -rf $(VENV) build dist *.egg-info

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14
