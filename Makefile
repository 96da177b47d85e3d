# Two commands do all the set-up on a fresh Debian or Ubuntu machine: `make demo` and `make test`.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules

# pytest compiles every test file anew in each of its processes where it may not keep the result.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
# Twice as many as the smallest machine has cores, as tests wait; each further one collects the tests again.
WORKERS := 4
SLOW := postfix or aws or vm
BENCHES := bench/cli.py bench/boot.py bench/bake.py bench/throughput.py bench/rotation.py

.PHONY: help setup apt demo test test-releases check docs bench packer dashboard-linter lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: apt $(VENV)/.ready ## packages that are missing, and .venv with everything that the project needs

apt:
	@requirements/install-apt.sh

$(VENV)/.ready: requirements/dev.txt requirements/make-venv.sh pyproject.toml
	@requirements/make-venv.sh $(VENV)
	@touch $@

demo: setup ## the main job on this machine: bake, boot, fetch a secret, relay a mail, show it
	@$(BIN)/builder demo

check: setup .tools/bin/promtool ## lint, types and the fast tests: under a minute
	@$(BIN)/pytest -q -n $(WORKERS) --dist worksteal

test: setup .tools/bin/promtool ## all tests, a VM bake and boot among them
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal
	@$(BIN)/pytest -m '($(SLOW)) and not releases'

test-releases: setup ## the VM tests on every release
	@$(BIN)/pytest -m 'vm or releases'

docs: setup ## write again what README.md and CONTRIBUTING.md take from the code
	@$(BIN)/python tools/docs.py

bench: setup ## every benchmark, the README's figures among them; one JSON file each in bench/results/
	@mkdir -p bench/results
	@for bench in $(BENCHES); do \
	    name=$$(basename "$$bench" .py); \
	    $(BIN)/python "$$bench" --json | tee "bench/results/$$name.json"; \
	done

.tools/bin/promtool:
	@tools/get-promtool.sh

dashboard-linter: ## Grafana's linter for the dashboard, built from Go modules into .tools/
	@tools/build-dashboard-linter.sh

packer: ## a current Packer and its amazon plugin, built from Go modules into .tools/
	@tools/build-packer.sh

lock: ## pin the dependencies of pyproject.toml anew (needs uv)
	@requirements/lock.sh

clean: ## everything that make put here but images/ and .tools/
	@rm -rf $(VENV) dist .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache bench/results
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
