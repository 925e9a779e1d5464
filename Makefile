# The two commands of this project are `make run` and `make test`; the rest serves developers.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# On two cores: tests wait for clocks and databases, too.
WORKERS ?= 3

.PHONY: run test test-fast test-engines test-faults mutants soak lint types proto tables bench clean

run: $(VENV)/.run
	$(BIN)/kine --listen-address 127.0.0.1:2379 $(KINE_ARGS)

test: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pytest -n $(WORKERS) -m "not engines" $(PYTEST_ARGS)

# Between edits: the API, the store, SQLite and the transports, on the two backends that need no other server.
FAST ?= tests/unit tests/etcd tests/store tests/sqlite tests/transport
test-fast: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pytest -n $(WORKERS) -m "not slow and not engines" \
		--backend memory --backend sqlite --transport http2 $(FAST) $(PYTEST_ARGS)

# What takes longer than `make test` may; CI runs both.
test-engines: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pytest -n $(WORKERS) -m engines $(PYTEST_ARGS)

# FAULTS="--minutes 60", or "--backend mysql --ops 100000 --seed 1"; FUZZ="--minutes 60"; --help tells more
test-faults: $(VENV)/.test
	$(BIN)/python -m tests.fuzz $(FUZZ)
	$(BIN)/python -m tests.faults $(FAULTS)

# MUTANTS="run --number 300 --seed 2", or record, changed, docs; --help tells more
mutants: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.mutants $(or $(MUTANTS),run)

# SOAK="--start kine-postgres --minutes 10"; --help tells more
soak: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m bench soak $(SOAK)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	! test -x $(BIN)/hadolint || $(BIN)/hadolint Dockerfile.release
	! command -v actionlint >/dev/null || actionlint

types: $(VENV)/.test
	$(BIN)/mypy

# BENCH="--go-kine PATH --go-kine-nats PATH"; takes 15 to 20 minutes of a machine that does nothing else
bench: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m bench all $(BENCH)

proto: $(VENV)/.test
	$(BIN)/pip install --quiet --group proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. kine/proto/*.proto

# A stamp a set of packages: made again when the project's dependencies change.
$(VENV)/.run: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("kine needs Python 3.11 or newer: make run PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: $(VENV)/.run tests/install.sh
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	BIN=$(BIN) bash tests/install.sh
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]' --group test --group lint
	! command -v krb5-config >/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[kerberos]'
	touch $@

tables: $(VENV)/.test
	$(BIN)/python -m kine.drivers.sql.schema
	$(BIN)/ruff format --quiet kine/drivers/sql/ddl.py

clean:
	rm -rf $(VENV) build dist *.egg-info
