# gradvitals. `make help` lists the targets; each sets up what it needs.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo $$p && break; done)
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
DOCS_VENV := $(VENV)-docs
PORT ?= 5000
EXP ?=
ARGS ?=
RUN ?=
ALLOW ?=
LIMITS = $(if $(TIME_LIMIT),--time-limit "$(TIME_LIMIT)") $(if $(MEMORY_LIMIT),--memory-limit "$(MEMORY_LIMIT)") \
	$(if $(HANG_LIMIT),--hang-limit "$(HANG_LIMIT)")
EXPERIMENT = $(if $(EXP),$(call quote,experiment=$(EXP)))
export GRADVITALS_STARTED_BY := make

TARGETS := help data sweep profile search run ui server show experiment experiments verdicts prescribe diagnose compare \
	report reproduce diff export verify import trace test lint bench graph docs clean lock
CONFIGURED := data experiment experiments profile reproduce run search show sweep trace
VARIABLES := A ALLOW ARGS B CI EXP FAIL_FAST FORCE FROM GRADVITALS_% HANG_LIMIT JOBS MEMORY_LIMIT MLFLOW_% NAME PORT PYTHON \
	RETRY RUN SEAL SHELL SLOW STACKS SWEEP TABLE TIME_LIMIT TO TRIALS VENV
# WORDS are the words key=value of the command line, quoted for the shell, in their order; MAKEOVERRIDES reverses it and
# escapes values.
GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))
reverse = $(if $1,$(call reverse,$(wordlist 2,$(words $1),$1)) $(firstword $1))
quote = '$(subst ','\'',$1)'
NAMES := $(filter $(GIVEN),$(foreach w,$(MAKEOVERRIDES),$(firstword $(subst =, ,$w))))
KEYS := $(filter-out $(VARIABLES),$(call reverse,$(NAMES)))
WORDS = $(foreach v,$(KEYS),$(call quote,$v=$(value $v)))
UNKNOWN := $(filter-out $(TARGETS) $(READY),$(MAKECMDGOALS))
UNCONFIGURED := $(filter-out $(CONFIGURED),$(or $(MAKECMDGOALS),help))
$(if $(UNKNOWN),$(error $(firstword $(UNKNOWN)): neither a target nor key=value; other words stand in ARGS="..."))
$(if $(KEYS),$(if $(UNCONFIGURED),$(error $(firstword $(KEYS))=...: make $(firstword $(UNCONFIGURED)) takes no config keys)))

.DEFAULT_GOAL := help
.PHONY: $(TARGETS)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  EXP=name picks conf/experiment/name.yaml; words key=value override any key; ARGS="..." holds options.'

$(READY): requirements.txt
	@if [ -z "$(PYTHON)" ]; then echo "error: no Python 3.11 to 3.13 with venv found; set PYTHON=..." >&2; exit 2; fi
	@echo "setting up $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

sweep: $(READY)  ## run the unfinished cells of a sweep, EXP=depth (JOBS=n STACKS=0 RETRY=1 FORCE=1 FAIL_FAST=1)
	@$(PY) -m pipeline sweep $(if $(JOBS),--jobs "$(JOBS)") $(if $(RETRY),--retry) $(if $(FORCE),--force) \
		$(if $(FAIL_FAST),--fail-fast) $(if $(filter 0,$(STACKS)),--no-stacks) $(LIMITS) $(EXPERIMENT) $(ARGS) $(WORDS)

profile: $(READY)  ## run a command and print where its time went, ARGS="sweep experiment=depth"
	@$(PY) -m pipeline profile $(or $(ARGS),sweep $(EXPERIMENT)) $(WORDS)

search: $(READY)  ## search with Optuna, EXP=search_tanh (TRIALS=n JOBS=n)
	@$(PY) -m pipeline search $(if $(TRIALS),--trials "$(TRIALS)") $(if $(JOBS),--jobs "$(JOBS)") $(LIMITS) \
		$(EXPERIMENT) $(ARGS) $(WORDS)

run: $(READY)  ## train and log one run, or resume it (FORCE=1 starts a new one)
	@$(PY) -m pipeline run $(if $(FORCE),--force) $(LIMITS) $(EXPERIMENT) $(ARGS) $(WORDS)

ui: $(READY)  ## serve the MLflow UI on loopback (PORT=5000)
	@exec $(PY) -m pipeline ui --port $(PORT) $(ARGS)

server: $(READY)  ## start a tracking server for several machines (PORT=5000, ARGS="--host 0.0.0.0 --auth")
	@exec $(PY) -m pipeline server --port $(PORT) $(ARGS)

show: $(READY)  ## print the composed config
	@$(PY) -m pipeline show $(EXPERIMENT) $(ARGS) $(WORDS)

data: $(READY)  ## print what would be read, ARGS="data=csv data.source.path=... data.source.target=..."
	@$(PY) -m pipeline data $(ARGS) $(WORDS)

experiment: $(READY)  ## run an experiment, NAME=..., and print its claims (SLOW=1)
	@$(PY) -m pipeline experiment "$(NAME)" $(if $(SLOW),--slow) $(ARGS) $(WORDS)

experiments: $(READY)  ## run all experiments and write docs/experiments (SLOW=1)
	@$(PY) -m pipeline experiment --all $(if $(SLOW),--slow) $(ARGS) $(WORDS)

verdicts: $(READY)  ## judge 2,000 networks with planted faults and write docs/verdicts.md (half an hour)
	@$(PY) -m experiments verdicts --slow --write $(ARGS)

prescribe: $(READY)  ## try remedies for the verdict of RUN=<id>
	@if [ -z "$(RUN)" ]; then echo "error: RUN is missing; give it a run id: make prescribe RUN=..." >&2; exit 2; fi
	@$(PY) -m pipeline prescribe $(foreach p,$(ALLOW),--allow $(p)) "$(RUN)" $(ARGS)

diagnose: $(READY)  ## judge a network that was trained elsewhere, TABLE=file (ARGS="--name mine")
	@if [ -z "$(TABLE)" ]; then echo "error: TABLE is missing; make diagnose TABLE=<parquet or .csv file>" >&2; exit 2; fi
	@$(PY) -m pipeline diagnose "$(TABLE)" $(ARGS)

compare: $(READY)  ## compare two runs, A=<id> B=<id>, with intervals
	@if [ -z "$(A)" ] || [ -z "$(B)" ]; then echo "error: A or B is missing; make compare A=<run> B=<run>" >&2; exit 2; fi
	@$(PY) -m pipeline compare "$(A)" "$(B)" $(ARGS)

report: $(READY)  ## write an HTML page about RUN=<id> or SWEEP=<id> (TO=file FORCE=1)
	@$(PY) -m pipeline report $(if $(RUN),--run "$(RUN)") $(if $(SWEEP),--sweep "$(SWEEP)") $(if $(TO),--to "$(TO)") \
		$(if $(FORCE),--force) $(ARGS)

reproduce: $(READY)  ## train RUN=<id or folder> again and compare every record
	@if [ -z "$(RUN)" ]; then echo "error: RUN is missing; give it a run id: make reproduce RUN=..." >&2; exit 2; fi
	@$(PY) -m pipeline reproduce $(foreach p,$(ALLOW),--allow $(p)) "$(RUN)" $(ARGS) $(WORDS)

diff: $(READY)  ## find the first difference of A=<id> B=<id> and its growth (TO=file.png FORCE=1)
	@if [ -z "$(A)" ] || [ -z "$(B)" ]; then echo "error: A or B is missing; make diff A=<run> B=<run>" >&2; exit 2; fi
	@$(PY) -m pipeline diff "$(A)" "$(B)" $(if $(TO),--to "$(TO)") $(if $(FORCE),--force) $(ARGS)

export: $(READY)  ## write RUN=<id> or SWEEP=<id> to a folder, TO=folder
	@$(PY) -m pipeline export $(if $(RUN),--run "$(RUN)") $(if $(SWEEP),--sweep "$(SWEEP)") --to "$(TO)" $(ARGS)

verify: $(READY)  ## check that an exported folder, FROM=folder, is unchanged (SEAL=...)
	@$(PY) -m pipeline verify --from "$(FROM)" $(if $(SEAL),--seal "$(SEAL)") $(ARGS)

import: $(READY)  ## create the runs of an exported folder, FROM=folder, in the store (SEAL=...)
	@$(PY) -m pipeline import --from "$(FROM)" $(if $(SEAL),--seal "$(SEAL)") $(ARGS)

trace: $(READY)  ## print a forward and backward pass step by step (EXP=, ARGS=)
	@$(PY) -m pipeline trace $(EXPERIMENT) $(ARGS) $(WORDS)

test: $(READY)  ## run the tests
	@$(PY) -m pytest $(ARGS)

lint: $(READY)  ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

bench: $(READY)  ## time a step against PyTorch (if installed), and what measuring costs
	@$(PY) -m benchmarks.step $(ARGS); first=$$?; $(PY) -m benchmarks.measuring $(ARGS) && exit $$first

graph: $(READY)  ## draw which wing imports which, docs/import_graph.svg, and count lines
	@$(PY) -m tools.import_graph

$(DOCS_VENV)/.ready: requirements-docs.txt
	@if [ -z "$(PYTHON)" ]; then echo "error: no Python 3.11 to 3.13 with venv found; set PYTHON=..." >&2; exit 2; fi
	@echo "setting up $(DOCS_VENV) ..."
	@$(PYTHON) -m venv --clear $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-docs.txt
	@touch $@

docs: $(DOCS_VENV)/.ready  ## build the site of these pages in the folder site
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --quiet --strict
	@echo "built site; open site/index.html, or for its search: $(PYTHON) -m http.server --directory site --bind 127.0.0.1"

lock: $(READY)  ## pin all requirements with hashes (needs uv)
	@uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes --no-header \
		--no-emit-index-url --output-file requirements.txt pyproject.toml requirements.in
	@uv pip compile --quiet --universal --python-version 3.11 --group docs --generate-hashes --no-header \
		--no-emit-index-url --output-file requirements-docs.txt

clean:  ## remove the virtual environment and caches (not the store)
	@rm -rf $(VENV) $(DOCS_VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
