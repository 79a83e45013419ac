# Every target sets up what it needs in .venv first, test-torch in .venv-torch.  Needs: python3 (3.11 to 3.13), make, git.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH  := .venv-torch
export MPLBACKEND ?= Agg

# Two pytest workers with one BLAS thread each are quicker than two that fight for the cores; the
# one that is done first takes over from the other.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations 20

.PHONY: help setup demo gallery docs browser walk bench test test-all setup-torch test-torch lint wheel lock clean
help:  ## this list
	@echo "Each sets up what it needs in $(VENV); another Python: make PYTHON=python3.12 demo"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile

setup: $(VENV)/.dev  ## an editable install with the developers' tools, in .venv

$(BIN)/python:
	@$(PYTHON) -c '' >/dev/null 2>&1 || { echo "liftflow needs Python 3.11 to 3.13, and no $(PYTHON) was found;" \
	  "install one, or name the one you have: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "liftflow needs" \
	  "Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "liftflow is set up in a virtual environment, and" \
	  "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up liftflow in $(VENV), a minute or two the first time"
	@$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 1; }

$(VENV)/.run: constraints.txt pyproject.toml setup.py | $(BIN)/python
	@$(PIP) --constraint constraints.txt --editable .
	@touch $@
$(VENV)/.dev: $(VENV)/.run
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.run  ## train a network on the digits twice, by θ and by z, and compare; in build/demo/
	$(BIN)/liftflow compare --data digits --widths 64-32-10 --t-end 40 --rtol 1e-5 --seed 0 --control --out build/demo

gallery: $(VENV)/.run  ## run all gallery scripts; their figures and a contact sheet in gallery/_build/
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/liftflow gallery --all --jobs 2 --out gallery/_build

NUMPY := tests/contracts tests/geomstats_cases

test: $(VENV)/.dev  ## tests and doctests, then the contracts and geomstats's cases under numpy; ARGS="-k path" goes to the first
	GEOMSTATS_BACKEND=autograd $(PYTEST) -m "not slow" $(ARGS)
	GEOMSTATS_BACKEND=numpy $(PYTEST) -m "not slow" $(NUMPY)

test-all: $(VENV)/.dev  ## the tests marked as slow, then make test
	GEOMSTATS_BACKEND=autograd $(PYTEST) -m slow $(ARGS)
	GEOMSTATS_BACKEND=numpy $(PYTEST) -m slow $(NUMPY)
	$(MAKE) test

# PyTorch has an environment of its own: several GB, and a sympy that the developers' mpmath is too new for.
$(TORCH)/.ready: constraints.txt constraints-torch.txt pyproject.toml setup.py | $(BIN)/python
	@echo "Setting up PyTorch in $(TORCH): several GB and some minutes the first time"
	@test -x $(TORCH)/bin/python || $(PYTHON) -m venv $(TORCH) || { rm -rf $(TORCH); exit 1; }
	@grep -v '^mpmath==' constraints.txt | cat - constraints-torch.txt >$(TORCH)/constraints.txt
	@$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint $(TORCH)/constraints.txt --editable '.[test-torch]'
	@touch $@

setup-torch: $(TORCH)/.ready  ## an environment with PyTorch, in .venv-torch: several GB

test-torch: $(TORCH)/.ready  ## the tests of liftflow.torch, with PyTorch; ARGS="-k resnet" for some
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 GEOMSTATS_BACKEND=autograd \
	  $(TORCH)/bin/python -m pytest -n 2 tests/pytorch $(ARGS)

# The scripts of the gallery run again when they changed, and all of them when the library did.
LIBRARY := $(shell find -L src/liftflow docs/gif_scraper.py -name '*.py' ! -name 'plot_*') constraints.txt
docs/gallery/.library: $(LIBRARY)
	@rm -rf docs/gallery && mkdir -p docs/gallery && touch $@

docs: $(VENV)/.dev docs/gallery/.library  ## the documentation in docs/_build/html/, warnings are errors
	@rm -rf docs/api docs/_build
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -E -q docs docs/_build/html

browser: $(VENV)/.dev  ## the built documentation in Chromium, skipped where there is none
	$(BIN)/python -m pytest -n 2 docs/test_in_browser.py

walk: | $(BIN)/python  ## the page Start as a new user walks it, from an empty folder, timed; PAGE=torch for the other
	$(BIN)/python tests/walk.py $(or $(PAGE),start)

bench: $(VENV)/.dev  ## every benchmarks/bench_*.py, and one table; WHAT="scale scaling" for some
	$(BIN)/python benchmarks/run.py $(WHAT)

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/.dev  ## sdist and wheel in dist/, and the wheel tried away from here
	@rm -rf dist && mkdir -p build
	$(BIN)/python -m build --outdir dist . >build/wheel.log 2>&1 || { tail -n 30 build/wheel.log >&2; exit 1; }
	$(BIN)/python tests/smoke_wheel.py dist/*.whl

lock: | $(BIN)/python  ## for maintainers: new pins for all Python versions, without host names
	@$(PIP) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --extra dev \
	  --no-annotate --custom-compile-command 'make lock' -o constraints.txt pyproject.toml
	@! grep -nE '://|^-' constraints.txt

clean:  ## remove what was built; .venv stays
	rm -rf build dist docs/_build docs/api docs/gallery gallery/_build .hypothesis .mypy_cache .pytest_cache .ruff_cache
