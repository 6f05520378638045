# The verbs of this repository. Each is a thin call; what it does is in the file it names.
# Settings: VERTICAL=1 DETACH=1 SIM=1 AUTH=1 REPLICAS=nlu=2,memory=2 CORS=http://localhost:5173 (up), WATCH=1 (status),
# PART=nlu (logs), ARGS="..." (test, chaos), UPGRADE=1 (lock), PYTHON=python3.11

PYTHON ?= $(or $(shell command -v python3.11),python3)
INSTALL = $(PYTHON) requirements/install.py
MYRIAD = .venv/bin/myriad

.DEFAULT_GOAL := help
.PHONY: help up down status chat logs test chaos check gen lock bench clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r verb says; do printf '  make %-8s %s\n' "$$verb" "$$says"; done

up: ## Start everything: environments, engines, services, Envoy (VERTICAL=1: services in one process; AUTH=1: ask for tokens; DETACH=1: return when ready)
	@$(INSTALL) runtime triton
	@$(MYRIAD) up $(if $(VERTICAL),--vertical) $(if $(DETACH),--detach) $(if $(SIM),--with-sim) \
		$(if $(AUTH),--auth) $(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(CORS),--cors $(CORS))

down: ## Stop everything
	@$(MYRIAD) down

status: ## Show every part: state, address, process, memory (WATCH=1: until Ctrl-C)
	@$(MYRIAD) status $(if $(WATCH),--watch)

chat: ## Talk to the example agent
	@$(MYRIAD) chat

logs: ## Show the log of a part: make logs PART=orchestrator
	@$(MYRIAD) logs $(PART)

test: ## Set up all that tests need and run them (ARGS="tests/unit -k nlu")
	@$(INSTALL) dev triton
	.venv/bin/pytest -n 2 $(ARGS)

chaos: ## The long versions: full counts of faults, hostile input and load (ARGS="tests/faults")
	@$(INSTALL) dev triton
	.venv/bin/pytest -m chaos --timeout 1800 $(ARGS)

check: ## Style, types, imports, contracts, files made from others
	@$(INSTALL) dev
	@.venv/bin/python .ci/check.py

gen: ## Write what is made from other files: protos/gen, Envoy's configuration and descriptors, docs/configuration.md
	@$(INSTALL) dev
	.venv/bin/python protos/generate.py code descriptors
	.venv/bin/python envoy/render.py
	.venv/bin/python docs/render.py

lock: ## Write requirements/*.txt from pyproject.toml (UPGRADE=1: to the newest versions allowed)
	@$(INSTALL) dev
	.venv/bin/python requirements/lock.py $(if $(UPGRADE),--upgrade)

bench: ## Measure, and write BENCHMARKS.md (ARGS="turn held": only these sections)
	@$(INSTALL) dev triton
	.venv/bin/python -m services.dev.bench $(ARGS)

clean: ## Remove environments, caches and made files; the stack's data in .myriad/data stay (rm -r .myriad removes them, too)
	@! test -x $(MYRIAD) || $(MYRIAD) down
	rm -rf .venv .venv-triton .myriad/logs .myriad/run envoy/descriptors.pb
	$(MAKE) -s -C examples/clients clean
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
