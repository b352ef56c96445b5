# Every target sets up .venv by itself; PYTHON chooses the interpreter it is made with.
PYTHON ?= python3

VENV    := .venv
PY      := $(VENV)/bin/python
READY   := $(VENV)/.ready
BENCH   := .venv-bench
BUILT   := _build/.built
MATHJAX := book/_static/tex-svg-full.js

PAGES := _config.yml _toc.yml $(shell find book chapters -type f -not -path '*/.*' -not -path $(MATHJAX) 2>/dev/null)

# The execution cache looks at notebooks alone, and Sphinx at pages alone. What a chapter computes depends on these
# files too, so a checksum over them names a stamp, and another checksum drops both.
INPUTS := $(shell find savae_lite data \( -path data/cache -o -path data/experiments/bench \) -prune -o -type f -not -name '*.pyc' -print | LC_ALL=C sort)
STAMP  := _build/.inputs-$(shell cksum requirements.txt $(INPUTS) | cksum | cut -d' ' -f1)

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help book test lab bench lint clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' Makefile

book: $(BUILT) ## run every chapter and build the pages
	@echo "The book is at $(CURDIR)/_build/html/index.html"

test: $(BUILT) ## test the library, every chapter and the built book
	@echo "Testing the library, the chapters and the built book"
	@$(PY) -m savae_lite.corpora
	@$(PY) -m pytest tests savae_lite chapters --nbval-lax --nbval-current-env --nbval-cell-timeout=600

lab: $(READY) ## open the chapters in JupyterLab
	@$(PY) -m savae_lite.corpora
	@$(PY) -m jupyter lab chapters

bench: $(BENCH)/.ready ## measure what differentiating through SVI costs: BENCH_FLAGS="--device cuda" on a GPU
	@PYTHONPATH=$(BENCH) $(PY) data/experiments/bench run $(BENCH_FLAGS)

lint: $(READY) ## check style, format and that chapters carry no outputs
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(VENV)/bin/nbstripout --keep-id --verify chapters/*.ipynb

clean: ## remove all that was built, but not the data in data/cache
	@rm -rf $(VENV) $(BENCH) _build $(MATHJAX) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find savae_lite tests chapters data -name __pycache__ -prune -exec rm -rf {} +
	@echo "Cleaned. Fetched data stay in data/cache."

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("savae-lite needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.11")'
	@echo "Setting up $(VENV) (some minutes, once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install -qq -r requirements.txt
	@$(PY) -m pip install -qq --no-deps --no-build-isolation -e .
	@$(PY) -m pip check
	@touch $@

# The libraries that the benchmark compares with, beside the environment and not in it.
$(BENCH)/.ready: data/experiments/bench/requirements.txt $(READY)
	@$(PY) -m pip install -qq --no-deps --upgrade --target $(BENCH) -r $<
	@touch $@

# MathJax as one local file, so that pages show their equations with no network.
$(MATHJAX): $(READY)
	@cp $(VENV)/lib/python3*/site-packages/sphinx-mathjax-offline/static/mathjax/$(@F) $@

$(STAMP):
	@rm -rf _build/.jupyter_cache _build/.doctrees _build/.inputs-*
	@mkdir -p _build
	@touch $@

# A failed build must fail again: what Sphinx remembers of it would hide its warnings from the next one.
$(BUILT): $(PAGES) $(STAMP) $(READY) $(MATHJAX)
	@rm -f $@
	@$(PY) -m savae_lite.corpora
	@echo "Running the chapters and building the pages"
	@TQDM_DISABLE=1 $(VENV)/bin/jupyter-book build . -q -W --keep-going || \
	  { rm -rf _build/.doctrees; echo "The book was not built: the first error above names the page."; exit 1; }
	@touch $@
