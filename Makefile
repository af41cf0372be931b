# Two commands: `make simulate` and `make test`. Each sets up what it needs.
# The first Python that runs and is new enough; a name on the PATH may be an empty shim.
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,\
    $(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
VENV := .venv
RUN := $(VENV)/bin/python -m
PIP := $(RUN) pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help simulate bench bench-keys model test test-light test-heavy lint format protos clean

help:
	@echo "make simulate   a whole federation on CIFAR-10, then a report with pictures"
	@echo "make bench      encrypting, the audit log, and answers a second beside other servers: what they take"
	@echo "make bench-keys the keys of 1,000 owners, rotated: what it takes"
	@echo "make model      train the model that the default scenario takes, again"
	@echo "make test       every test: test-light, then test-heavy (fuzzing, then minutes of killed servers)"
	@echo "make lint       style, types, import rules, protos and their stubs"
	@echo "make protos     generate the stubs again"
	@echo "Options for bench: make bench ARGS='--owners 100 --peers none'; all: keymixer bench --help"
	@echo "Options for simulate: make simulate ARGS='--retrain' or ARGS='deploy/scenarios/digits.yaml'"

simulate: $(VENV)/simulation
	$(RUN) orchestrator.cli simulate $(ARGS)

bench: $(VENV)/simulation
	$(RUN) orchestrator.cli bench encrypt
	$(RUN) orchestrator.cli bench audit
	$(RUN) orchestrator.cli bench serving $(ARGS)

bench-keys: $(VENV)/simulation
	$(RUN) orchestrator.cli bench keys $(ARGS)

# The model beside the default scenario: deploy/models/cifar10/README.md.
model: $(VENV)/simulation
	mkdir -p runs/model
	OMP_NUM_THREADS=1 $(RUN) parties.model_provider train --folder runs/model --name cifar10 --data cifar10 \
	    --hidden 256 --depth 6 --epochs 22 --weight-decay 0.02 --label-smoothing 0.05 --cutmix 0.3 \
	    --ema 0.998 --seed 0 --public --progress json >> runs/model/log.jsonl

test: test-light test-heavy

# Tests wait for processes and clocks about half of the time: three workers to two processors.
WORKERS = $(shell $(VENV)/bin/python -c 'import os; print(min(4, (3 * (os.cpu_count() or 1) + 1) // 2))')

test-light: $(VENV)/dev
	$(RUN) pytest -m "not heavy" --numprocesses $(WORKERS) --dist loadfile

# Fuzzing takes five minutes of one core. The others keep every core busy by themselves,
# and kill by the clock.
test-heavy: $(VENV)/dev
	$(RUN) pytest -m heavy --numprocesses 2 tests/fuzz
	$(RUN) pytest -m heavy --ignore tests/fuzz

lint: $(VENV)/dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/buf lint
	$(VENV)/bin/buf format --diff --exit-code
	$(MAKE) --no-print-directory protos
	git diff --exit-code -- protos

format: $(VENV)/dev
	$(RUN) ruff format .
	$(RUN) ruff check --fix .
	$(VENV)/bin/buf format --write

# The stubs come from the project's own environment: a newer generator would ask for a
# protobuf that flwr refuses.
protos: $(VENV)/dev
	PATH="$(abspath $(VENV)/bin):$$PATH" $(RUN) grpc_tools.protoc -I . --python_out=. --grpc_python_out=. \
	    --mypy_out=quiet:. --mypy_grpc_out=quiet:. protos/*.proto

clean:
	rm -rf $(VENV) runs dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "keymixer needs Python 3.11 or later: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/simulation: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[simulation]'
	touch $@

$(VENV)/dev: $(VENV)/simulation
	$(PIP) --editable '.[simulation,dev]'
	touch $@
