# Two commands do everything on a machine with python3 (3.11 or newer) and make: `make fit` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install fit test test-slow torture lint types bench tpu-check docs lock clean

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python3 is " + sys.version.split()[0] + "; 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

fit: install
	$(BIN)/python -m jgmm.fit --dataset photos --k 100 --holdout 0.1 --out runs/photos-k100-$$(date +%Y%m%d-%H%M%S)

# The tests run in as many processes as there are cores, up to four: threads of NumPy's own would only wait for each other.
test: install
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

test-slow: install
	OPENBLAS_NUM_THREADS=1 XLA_FLAGS= $(BIN)/python -m pytest -m slow

# Kills, failing disks, damaged files, two writers, bad input and fuzzed fits: docs/reliability.md. PART="kills fits" runs
# some of them, SEED=1 others than the last time, SIZE=0.1 a tenth.
torture: install
	PYTHONPATH=tests/torture:tests:. OPENBLAS_NUM_THREADS=1 $(BIN)/python -m torture $(PART) --seed $(or $(SEED),0) --size $(or $(SIZE),1)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# make bench DATA=DIR: DIR holds CIFAR-10. The other libraries get an environment of their own; PEERS adds to what pip
# installs there: jax[cuda13] on a GPU, or a torch without CUDA on a CPU,
# PEERS="--extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu".
bench: install .venv-bench/installed
	$(BIN)/python benchmarks/em.py --peers .venv-bench/bin/python $(if $(DATA),--data-dir $(DATA))

.venv-bench/installed: benchmarks/peers.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt $(PEERS)
	@touch $@

# What the compiler for TPUs makes of the programs, on a machine without one; ARGS="--only EM" compiles some of them.
tpu-check: install .venv-tpu/installed
	PYTHONPATH=. .venv-tpu/bin/python benchmarks/tpu.py $(ARGS)

.venv-tpu/installed: requirements.lock
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.lock
	.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$$($(BIN)/python benchmarks/tpu.py --requirement)"
	@touch $@

# The site, in build/site; a warning is an error.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet

.venv-docs/installed: docs/site/requirements.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --requirement docs/site/requirements.txt
	@touch $@

# Exact versions for every platform and Python from 3.11, from the ranges in pyproject.toml.
lock: install
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --extra dev --no-header pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .venv-bench .venv-docs .venv-tpu .pytest_cache .mypy_cache .ruff_cache build *.egg-info
