# Every target sets up .venv by itself; PYTHON chooses the interpreter it is made with, TORCH another build of PyTorch.
PYTHON ?= python3
export TORCH
export STRICT

VENV  := .venv
PY    := $(VENV)/bin/python
# An environment belongs to its folder: in a copied or moved checkout this file is not there, and it is made anew.
READY := $(VENV)/.ready-$(shell pwd -P | cksum | cut -d' ' -f1)
BENCH := .venv-bench

# Nothing of the reader's own Python may reach into the environment.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONWARNINGS VIRTUAL_ENV

.PHONY: help book test lab bench compat lint lock clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' Makefile

book: $(READY) ## run every chapter and build the pages; STRICT=1 fails where a claim does
	@$(PY) -m savae_lite.corpora
	@$(PY) book/build.py

test: book ## test the library, every chapter and the built book
	@echo "Testing the library, the chapters and the built book"
	@OMP_NUM_THREADS=1 $(PY) -m pytest chapters tests savae_lite --nbval-lax --nbval-current-env --nbval-cell-timeout=1800 --nbval-kernel-startup-timeout=600 \
	  -n $$($(PY) book/machine.py) --dist loadfile

lab: $(READY) ## open the chapters in JupyterLab
	@$(PY) -m savae_lite.corpora
	@$(PY) -m jupyter lab chapters

bench: $(BENCH)/.ready ## measure what differentiating through SVI costs: BENCH_FLAGS="--device cuda" on a GPU
	@PYTHONPATH=$(BENCH) $(PY) data/experiments/bench run $(BENCH_FLAGS)

compat: $(READY) ## run library and chapters on the oldest and newest versions that are promised: COMPAT_FLAGS="--help"
	@$(PY) -m savae_lite.corpora
	@$(PY) tests/compat.py $(COMPAT_FLAGS)

lint: $(READY) ## check style, format and that chapters carry no outputs
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m nbstripout --keep-id --verify chapters/*.ipynb

lock: $(READY) ## make requirements.txt again from requirements.in
	@$(VENV)/bin/uv pip compile -q --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock" requirements.in -o requirements.txt

clean: ## remove all that was built, but not the data in data/cache
	@rm -rf $(VENV) $(BENCH) _build build *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find savae_lite tests chapters data book -name __pycache__ -prune -exec rm -rf {} +
	@echo "Cleaned. Fetched data stay in data/cache."

$(READY): requirements.txt requirements-torch.txt pyproject.toml
	@$(PYTHON) book/environment.py $(VENV)
	@touch $@

# The libraries that the benchmark compares with, beside the environment and not in it.
$(BENCH)/.ready: data/experiments/bench/requirements.txt $(READY)
	@$(PY) -m pip install -qq --no-deps --upgrade --target $(BENCH) -r $<
	@touch $@
