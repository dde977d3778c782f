# make demo   install, then classify the digits          make test   install the test extras, check everything
#                                                        make check  its fast part, in a minute
# make docs   build/docs/index.html, the documentation     make lower-bounds   the fast part with the lowest versions
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Where no bytecode is kept, each process of the tests compiles all sources anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs check fast test lower-bounds real real-kubernetes chaos lint warm clean

demo: $(VENV)/.installed
	$(BIN)/cntk demo

# The documentation as a site, whose examples run while it is built. It needs no network.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -j auto -d build/doctrees -c docs . build/docs
	@echo "built build/docs/index.html"

# Fast tests are shared by two processes; the one that is done first takes tests from the other one.
PROCESSES ?= 2
SHARED = -n $(PROCESSES) --dist worksteal
# All tests: those of a file in the same process, files of slow ones first. Slow ones wait for others, so one process more.
test: PROCESSES = 3
TOGETHER = -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
# The fast tests; the examples of `finite` import torch, which takes seconds.
FAST := -m "not slow" --ignore=pipeline/cntk_pipeline/finite

# Machine code of the package is kept for later checkouts too, since it takes each three minutes of a core; the folder
# `cntk` beside the sources is where `kernels.code_cache` looks, and keeps sixteen sets of sources. What the tests compile
# for cards lies there too.
MACHINE_CODE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cntk-checkouts
BESIDE := pipeline/cntk_pipeline/kernels/__pycache__/cntk
$(BESIDE):
	-@mkdir -p "$(MACHINE_CODE)" $(@D) && ln -sfn "$(MACHINE_CODE)" $@

check: $(VENV)/.installed-test
	@$(MAKE) --no-print-directory --jobs 2 lint fast

fast: $(VENV)/.installed-test | $(BESIDE)
	$(BIN)/python -m pytest -q $(FAST) $(SHARED)

test: $(VENV)/.installed-test
	@$(MAKE) --no-print-directory --jobs 2 lint warm
	tests/run.sh $(BIN)/python "$(TOGETHER)" --ignore=tests/real/test_kubernetes.py

# The fast tests, and scikit-learn's own checks of estimators, with the lowest version of each dependency that
# pyproject.toml allows, in an environment of their own.
LOWEST := $(VENV)-lowest
lower-bounds:
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[test]'
	$(LOWEST)/bin/python -m pytest -q $(FAST) $(SHARED)
	$(LOWEST)/bin/python -m pytest -q tests/estimators/test_conventions.py

# The real parts alone: SLURM, S3 gateway, ssh and network namespaces, on Debian as root; a missing one fails, where `make test` skips it.
real: $(VENV)/.installed-test
	tests/real/install.sh
	CNTK_REQUIRE_REAL=1 $(BIN)/python -m pytest tests/real --ignore=tests/real/test_kubernetes.py

# A Kubernetes API server, which takes a quarter of an hour to build once (into $(KUBERNETES)), and the Dask operator.
KUBERNETES ?= $(HOME)/.cache/cntk-kubernetes
real-kubernetes: $(VENV)/.installed-test
	tests/real/kubernetes/build.sh $(KUBERNETES)
	CNTK_REQUIRE_REAL=1 CNTK_KUBERNETES=$(KUBERNETES) $(BIN)/python -m pytest -s tests/real/test_kubernetes.py

# A hundred kills of workers and of drivers, on this machine; each prints what it cost; a fault at every operation, every
# damage of every file, 10,000 schedules; a soak of 15 minutes. Then garbled records, by the thousand, and random networks.
FUZZ_SECONDS ?= 180
SOAK_SECONDS ?= 900
chaos: $(VENV)/.installed-test
	CNTK_KILLS=100 CNTK_DAMAGES=1 CNTK_OPERATIONS_STEP=1 CNTK_POWER_CUTS=200 CNTK_SCHEDULES=10000 \
	    CNTK_SOAK_SECONDS=$(SOAK_SECONDS) \
	    $(BIN)/python -m pytest -s tests/faults
	CNTK_FUZZ=20 CNTK_NETWORKS=200 $(BIN)/python -m pytest tests/rundir/test_records.py tests/kernels/test_twin.py
	@if $(BIN)/python -m pip install --quiet --only-binary :all: --editable '.[fuzz]'; then \
	    PYTHONPATH=. $(BIN)/python tests/faults/fuzz/readers.py $(VENV)/fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=4096; \
	else echo "atheris has no wheel for this Python: readers are fuzzed by hypothesis alone"; fi

# Compiles what most tests compute with, once: their processes would each do so, at the same time.
WARM := from numpy import ones; from cntk_pipeline import kernel_matrix; from cntk_pipeline.layers.presets import cntk; \
    [kernel_matrix(cntk(3, pooling="gap"), ones((2, 8, 8, 1)), dtype=name, n_jobs=1) for name in ("float32", "float64")]
warm: $(VENV)/.installed-test | $(BESIDE)
	@$(BIN)/python -c '$(WARM)'

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(LOWEST) build runs
	@if [ -L $(BESIDE) ]; then rm -rf "$(MACHINE_CODE)"/*; fi # otherwise it is of other checkouts

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12"; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing the package and what it needs (a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[images,dashboard,metrics,report,xarray]'
	@touch $@

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	@echo "installing the package and what its documentation needs (a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs,images,xarray]'
	@touch $@

# One version, as each has gigabytes; tests of finite networks are skipped where there is none.
TORCH ?= torch==2.13.0
$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@echo "installing the package, what it needs, and what its tests need (a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[finite,test]' '$(TORCH)'
	@# Apart: where widgets are installed, pages and notebooks show them.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/widgets ipywidgets
	@touch $@ $(VENV)/.installed $(VENV)/.installed-docs
