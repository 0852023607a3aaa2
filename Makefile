# Everything installs itself: `make demo` and `make test` need python3 (3.10 or newer) with its venv module, nothing else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SHELL  := /bin/bash
.SHELLFLAGS := -e -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A stamp bears the checksum of what was installed: a changed lock installs again, an unchanged one costs nothing.
stamp  = $(VENV)/.installed-$(1)-$(shell cat requirements/$(1).txt pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)
CORE    := $(call stamp,core)
LAB     := $(call stamp,lab)
TEST    := $(call stamp,test)
BROWSER := $(call stamp,browser)
WIDGETS7 := .venv-widgets7/.installed-$(shell cat requirements/widgets7.txt 2>/dev/null | cksum | cut -d' ' -f1)
LITELLM := .venv-litellm/.installed-$(shell cat requirements/litellm.txt 2>/dev/null | cksum | cut -d' ' -f1)
ENGINES := .venv-engines/.installed-$(shell cat requirements/engines.txt requirements/test.txt 2>/dev/null | cksum | cut -d' ' -f1)
UV      := 0.13.8

# Many tests wait for processes and servers: one more at once than there are cores. A module's tests share its servers.
JOBS    ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n + 1 : 8)))
PYTEST   = $(BIN)/python -m pytest
MANY     = -n $(JOBS) --dist loadfile

# What `make test` leaves to `make test-all`.
PARTS := browser or argilla or dot or crash or litellm or slow or engines or widgets7

.PHONY: help demo test check lab lock format screenshots test-all test-parts test-litellm test-widgets7 test-engines crash-test property-test parts bench bench-peers pages clean

help:             ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: $(CORE)     ## run the demo pipeline; LLM=provider:model asks a real model, else it rehearses
	@$(BIN)/distilnb demo $(if $(LLM),--llm "$(LLM)")

test: check       ## ruff, mypy, import rule, and all tests that need only Python
	@$(PYTEST) $(MANY) -m "not ($(PARTS))"

check: $(TEST)    ## ruff, formatting, mypy, import rule
	@$(BIN)/ruff check --quiet . && echo "ruff: ok"
	@$(BIN)/ruff format --quiet --check . && echo "format: ok"
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > $(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }
	@grep -E '^Contracts:' $(VENV)/lint-imports.log

format: $(TEST)   ## mend imports and formatting
	@$(BIN)/ruff check --quiet --fix-only . ; $(BIN)/ruff format --quiet .

lab: $(LAB)       ## open JupyterLab on the tour
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/01_tour.ipynb

test-all: check parts   ## all tests with all parts (Chromium, dot, Argilla's server, LiteLLM, ipywidgets 7) but the engines; a skip is a failure
	@DISTILNB_TEST_ALL=1 $(BIN)/python -m pytest -m "not litellm and not engines and not widgets7"
	@$(MAKE) test-litellm test-widgets7

test-parts: parts       ## only what `make test` left out, but the engines; a skip is a failure
	@DISTILNB_TEST_ALL=1 $(BIN)/python -m pytest -m "($(PARTS)) and not litellm and not engines and not widgets7"
	@$(MAKE) test-litellm test-widgets7

test-litellm: $(LITELLM)  ## the suite of models on LiteLLM, in a venv of its own: it wants an older openai
	@DISTILNB_TEST_ALL=1 .venv-litellm/bin/python -m pytest -m litellm tests/llms/conformance

# Tests of the panel and of questions hold for these widgets too.
test-widgets7: $(WIDGETS7)  ## what is shown, with ipywidgets 7.7 (Colab's), and in JupyterLab 3
	@DISTILNB_TEST_ALL=1 .venv-widgets7/bin/python -m pytest -m widgets7 tests/notebook/test_widgets7.py
	@.venv-widgets7/bin/python -m pytest -m "not ($(PARTS))" tests/view/test_panel.py tests/notebook/test_waiting.py

# One process after the other, or two hosts of vLLM would share the processors.
test-engines: $(ENGINES)   ## a tiny model in the real Transformers, llama.cpp and vLLM, on the CPU (2 GB, 15 minutes)
	@DISTILNB_TEST_ALL=1 OMP_NUM_THREADS=1 .venv-engines/bin/python -m tests.llms.conformance engines

crash-test: $(TEST)     ## kill real processes of running pipelines, 200 times and more; MINUTES=5 ends it sooner, SEED=… repeats it
	@DISTILNB_CRASH_MINUTES=$(MINUTES) DISTILNB_SEED=$(SEED) $(BIN)/python -m pytest -m crash

property-test: $(TEST)  ## all drawn tests with new draws, pipelines above all; EXAMPLES=5000, SEED=… repeats it
	@DISTILNB_SEED=$(or $(SEED),random) $(BIN)/python -m pytest -m hypothesis
	@DISTILNB_EXAMPLES=$(or $(EXAMPLES),5000) DISTILNB_SEED=$(or $(SEED),random) $(BIN)/python -m pytest tests/property

bench: $(TEST)    ## measure distilnb beside bare loops and print the tables (15 minutes)
	@$(BIN)/python -m benchmarks all

bench-peers: $(TEST)    ## measure other libraries (25 minutes, 3 GB of venvs); tables of all: python -m benchmarks table
	@$(BIN)/python -m benchmarks setup
	@$(BIN)/python -m benchmarks all --rivals --budget-s 1500

# ------------------------------------------------------------------------------------------------------------ set-up

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "distilnb needs Python 3.10 or newer: make PYTHON=python3.12 …"; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "Python's venv module is missing. Debian, Ubuntu: apt install python3-venv"; exit 1; }

# -qq: pip prints errors only. With --require-hashes a package that the lock lacks is an error, not a download.
$(VENV)/.installed-%: | $(BIN)/python
	@name=$$(echo "$*" | sed 's/-[0-9]*$$//'); \
	echo "installing requirements/$$name.txt (pinned, hashes checked)"; start=$$SECONDS; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --only-binary :all: --require-hashes \
	  -r requirements/$$name.txt; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	rm -f $(VENV)/.installed-$$name-*; touch $@; \
	echo "installed in $$((SECONDS - start)) s; $(VENV) is $$(du -sh $(VENV) | cut -f1)"

# Debian packages by the command (or, for fonts, the file) that shows they are there.
NEED := $(strip \
  $(if $(shell command -v chromium || command -v chromium-browser || command -v google-chrome),,chromium) \
  $(if $(shell command -v dot),,graphviz) \
  $(if $(wildcard /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf),,fonts-dejavu-core) \
  $(if $(wildcard /usr/share/fonts/truetype/wqy/wqy-microhei.ttc),,fonts-wqy-microhei))
ARGILLA := .venv-argilla/.installed-$(shell cat requirements/argilla-server.txt 2>/dev/null | cksum | cut -d' ' -f1)

parts: $(BROWSER) $(ARGILLA) $(LITELLM) $(WIDGETS7)
ifneq ($(NEED),)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  echo "installing $(NEED)"; export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends $(NEED) > $(VENV)/apt.log 2>&1 \
	    || { tail -20 $(VENV)/apt.log; exit 1; }; \
	else echo "missing, and their tests will fail: $(NEED). Debian, Ubuntu: sudo apt install $(NEED)"; fi
endif

# Its own venv: the server pins other versions of pydantic and friends than distilnb runs with.
$(ARGILLA): | $(BIN)/python
	@echo "installing requirements/argilla-server.txt into .venv-argilla"
	@[ -x .venv-argilla/bin/python ] || $(PYTHON) -m venv .venv-argilla
	@.venv-argilla/bin/python -m pip install -qq --disable-pip-version-check --require-hashes \
	  -r requirements/argilla-server.txt
	@rm -f .venv-argilla/.installed-*; touch $@

$(LITELLM): | $(BIN)/python
	@echo "installing requirements/litellm.txt into .venv-litellm"
	@[ -x .venv-litellm/bin/python ] || $(PYTHON) -m venv .venv-litellm
	@.venv-litellm/bin/python -m pip install -qq --disable-pip-version-check --require-hashes \
	  -r requirements/litellm.txt
	@rm -f .venv-litellm/.installed-*; touch $@

$(WIDGETS7): | $(BIN)/python
	@echo "installing requirements/widgets7.txt into .venv-widgets7"
	@[ -x .venv-widgets7/bin/python ] || $(PYTHON) -m venv .venv-widgets7
	@.venv-widgets7/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/widgets7.txt
	@.venv-widgets7/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@rm -f .venv-widgets7/.installed-*; touch $@

# Its own venv too: 2 GB, of which torch is half. It needs Python 3.11. No lock holds torch, whose build for a CPU has other
# files than that for a GPU, nor llama.cpp, which is compiled here, for any processor, without its programs.
TORCH     := 2.13.0
LLAMA_CPP := 0.3.36
LLAMA := -DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF
$(ENGINES): | $(BIN)/python
	@echo "installing requirements/engines.txt into .venv-engines (llama.cpp is compiled: minutes)"
	@[ -x .venv-engines/bin/python ] || $(PYTHON) -m venv .venv-engines
	@.venv-engines/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/test.txt
	@.venv-engines/bin/python -m pip install -qq --disable-pip-version-check torch==$(TORCH)
	@.venv-engines/bin/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes \
	  -r requirements/engines.txt
	@CMAKE_ARGS="$(LLAMA)" .venv-engines/bin/python -m pip install -qq --disable-pip-version-check --no-deps \
	  llama-cpp-python==$(LLAMA_CPP)
	@.venv-engines/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@rm -f .venv-engines/.installed-*; touch $@

# The largest lock is made first and constrains the others, so any two of them agree on every version.
COMPILE = .venv-lock/bin/uv --quiet pip compile pyproject.toml --universal --python-version 3.10 --generate-hashes \
  --no-header --no-emit-index-url --no-emit-find-links $(UPGRADE)

lock:             ## renew requirements/*.txt from pyproject.toml; UPGRADE=--upgrade moves versions
	@[ -x .venv-lock/bin/uv ] || { $(PYTHON) -m venv .venv-lock; .venv-lock/bin/python -m pip install -qq uv==$(UV); }
	@$(COMPILE) --group browser -o requirements/browser.txt
	@$(COMPILE) --group test -c requirements/browser.txt -o requirements/test.txt
	@$(COMPILE) --group build --extra lab -c requirements/browser.txt -o requirements/lab.txt
	@$(COMPILE) --group build -c requirements/browser.txt -o requirements/core.txt
	@$(COMPILE) --group litellm --extra litellm -o requirements/litellm.txt
	@$(COMPILE) --group widgets7 -o requirements/widgets7.txt
	@.venv-lock/bin/uv --quiet pip compile requirements/engines.in --no-deps --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links -o requirements/engines.txt
	@! grep -lE '://|^--(index|extra|find|trusted)' requirements/*.txt
	@wc -l requirements/*.txt

pages: $(TEST)    ## write docs/magics.md from the parsers, and docs/llms.md from what the suite of models shows
	@$(BIN)/python -m tests.llms.conformance
	@$(BIN)/python -m tests.notebook.reference

screenshots: parts  ## take the pictures of docs/images anew, in a real JupyterLab, light and dark; NAMES=graph takes some
	@$(BIN)/python -m tests.notebook.screenshots $(NAMES)

clean:            ## remove venvs, caches and build output
	@rm -rf .venv .venv-lock .venv-argilla .venv-litellm .venv-widgets7 .venv-engines benchmarks/.venvs build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis \
	  .coverage .coverage.* htmlcov *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
