# One command each: `make demo` runs the main job, `make test` passes the tests. Both set everything up in .venv
# from requirements.lock, need no root, and leave no process behind.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODE ?= orchestrated
REYNOLDS ?= 20
UV_VERSION := 0.13.8
WITH_AIRFLOW := .[demo,airflow]

export DO_NOT_TRACK := 1
# uv installs no byte code. Where this is set, as in many containers, each process would compile all that it imports
# anew: half of what a process of Prefect or Airflow costs.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo airflow prefect test test-prefect-latest lint schema lock mutants benchmark clean system-packages

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# What only pip can reach (an index of its own configuration, say) is installed by pip.
install = { $(BIN)/uv pip install --quiet --python $(BIN)/python -c requirements.lock $(1) || \
	{ $(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock $(1); }; }

$(VENV)/.demo: pyproject.toml requirements.lock | $(BIN)/uv
	@echo "Installing into $(VENV) …"
	@$(call install,-e '.[demo]')
	@touch $@

# The tests start some 500 processes, several at once: without this the first ones all compile the same packages.
$(VENV)/.dev: export UV_COMPILE_BYTECODE := 1
$(VENV)/.dev: pyproject.toml requirements.lock | $(BIN)/uv
	@echo "Installing into $(VENV) …"
	@$(call install,-e '$(WITH_AIRFLOW)' --group dev)
	@touch $(VENV)/.demo $@

$(VENV)/.checkov: requirements-checkov.lock | $(BIN)/uv
	@$(PYTHON) -m venv $(VENV)/checkov
	@$(BIN)/uv pip install --quiet --python $(VENV)/checkov/bin/python -r requirements-checkov.lock || \
		$(VENV)/checkov/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-checkov.lock
	@touch $@

$(VENV)/.airflow: pyproject.toml requirements.lock | $(BIN)/uv
	@echo "Installing into $(VENV) …"
	@$(call install,-e '$(WITH_AIRFLOW)')
	@touch $@

# What is locked is installed as it is: the lock has a certifi that Prefect 3.9 would refuse.
$(VENV)/.prefect-latest: export UV_COMPILE_BYTECODE := 1
$(VENV)/.prefect-latest: pyproject.toml requirements-prefect-latest.lock | $(BIN)/uv
	@echo "Installing into $(VENV)/prefect-latest …"
	@$(PYTHON) -m venv $(VENV)/prefect-latest
	@$(BIN)/uv pip install --quiet --python $(VENV)/prefect-latest/bin/python --no-deps \
		-r requirements-prefect-latest.lock -e . || \
		$(VENV)/prefect-latest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-r requirements-prefect-latest.lock -e .
	@touch $@

demo: $(VENV)/.demo  ## Run the cylinder-flow pipeline on the laptop stack (MODE=chained, REYNOLDS=10)
	@$(BIN)/python -m sched_plugins.local.prefect pipelines/cylinder_flow -- \
		$(BIN)/python prefect_flows/demo.py --mode $(MODE) --reynolds $(REYNOLDS) --results demo-results

airflow: $(VENV)/.airflow  ## Start Airflow with the DAGs beside a laptop stack, until Ctrl-C
	@$(BIN)/python -m sched_plugins.local.airflow airflow_dags pipelines/cylinder_flow

prefect: $(VENV)/.demo  ## Start Prefect with the flows and a work pool beside a laptop stack, until Ctrl-C
	@$(BIN)/python -m sched_plugins.local.prefect --flows prefect_flows pipelines/cylinder_flow

# Prefect's in processes of their own: its clients leave threads and connections behind, which other tests would meet.
test: $(VENV)/.dev  ## Run all tests
	@$(BIN)/python -m pytest -n 4 --no-loadscope-reorder --ignore=tests/prefect
	@$(BIN)/python -m pytest -n 4 --no-loadscope-reorder tests/prefect

test-prefect-latest: $(VENV)/.prefect-latest  ## Run the Prefect tests with the newest release of Prefect
	@$(VENV)/prefect-latest/bin/python -m pytest -n 4 --no-loadscope-reorder tests/prefect

lint: $(VENV)/.dev $(VENV)/.checkov  ## Lint, types, import order
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/cfn-lint infra/*.yaml
	@$(BIN)/python -m pytest -q -m lint tests/infra

schema: $(VENV)/.demo  ## Renew the JSON Schema of pipeline files
	@$(BIN)/python -c 'import json; from sched_plugins.pipeline import schema; print(json.dumps(schema(), indent=2))' \
		> src/sched_plugins/pipeline/pipeline.schema.json

lock: | $(BIN)/uv  ## Renew the locks
	@$(BIN)/uv pip compile --universal --python-version 3.11 --extra airflow --extra demo --group dev --upgrade \
		--no-header --no-emit-index-url --quiet -o requirements.lock pyproject.toml
	@$(BIN)/uv pip compile --universal --python-version 3.11 --group checkov --upgrade \
		--no-header --no-emit-index-url --quiet -o requirements-checkov.lock
	@echo certifi | $(BIN)/uv pip compile --universal --python-version 3.11 --extra demo --group prefect-latest \
		--override - --upgrade --no-header --no-emit-index-url --quiet -o requirements-prefect-latest.lock pyproject.toml

mutants: $(VENV)/.dev  ## Remove each condition of each conditional write and show which test notices
	@$(BIN)/python tests/mutants.py

benchmark: $(VENV)/.dev  ## Measure throughput on the laptop stack
	@$(BIN)/python benchmarks/throughput.py

system-packages:  ## Install the system packages that some tests want (needs root)
	@echo "No test needs a system package."

clean:  ## Remove everything that the targets made
	@[ ! -x $(BIN)/sched ] || $(BIN)/sched local down >/dev/null 2>&1 || true
	@rm -rf $(VENV) .sched-local .packaged demo-results .mypy_cache .ruff_cache .pytest_cache .hypothesis
