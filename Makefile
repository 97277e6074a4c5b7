# make demo and make test need Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
# PyPI's torch for Linux brings CUDA along, 5 GB. Where there is no GPU, PyTorch's own index has a
# build of a tenth of that; it is used only if it answers. Another mirror: make TORCH_INDEX=URL.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ANSWERS := import sys, urllib.request as web; web.urlopen(sys.argv[1] + "/torch/", timeout=5)
small_torch = $(if $(and $(TORCH_INDEX),$(filter Linux,$(shell uname -s))),$(if $(wildcard \
	/dev/nvidiactl /dev/kfd),,$(shell $(PYTHON) -c '$(ANSWERS)' '$(TORCH_INDEX)' 2>/dev/null \
	&& echo --extra-index-url '$(TORCH_INDEX)')))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Hundreds of the tests' processes would each compile the same files.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test docs notebook planted machines accuracy oldest slow faults fuzz bench budgets lint types check install clean
.DEFAULT_GOAL := help

help:  ## show what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: .venv/installed  ## collect, train and watch in-context learning, in minutes
	$(BIN)/fastad demo dark-room

test: .venv/dev  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -q

planted: .venv/dev  ## plant every bug in the kernels: the tests must find each; make test plants a part
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -q -m "" tests/kernels/planted

machines: .venv/dev  ## the kernels' tests as on other machines; MACHINE=NAME: one; QUICK=1: a part; WHOLE=1: all tests
	$(BIN)/python -m tests.kernels.machines $(MACHINE) $(if $(QUICK),--quick) $(if $(WHOLE),--whole)

accuracy: .venv/dev  ## show how exact each kernel is beside plain PyTorch
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -q -p tests.kernels.accuracy_table \
		tests/kernels --ignore=tests/kernels/planted

oldest: .venv-oldest/dev  ## run the kernels' tests on the oldest Triton supported
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n auto -q tests/kernels

slow: .venv/dev  ## run the long experiments (about an hour)
	$(BIN)/python -m pytest -q -m slow

faults: .venv/dev  ## kill, stop, fill disks, damage files, thousands of times: nothing may be lost (an hour or two)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --results benchmarks/results/faults.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.memory --results benchmarks/results/flat-memory.json

fuzz: .venv/fuzz  ## fuzz every file that is read: TARGET=meta: one of them; SECONDS=600: for each
	for target in $(or $(TARGET),dataset meta npy checkpoint config result parquet minari xland \
			hugging-face); do \
		OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --target $$target \
			--seconds $(or $(SECONDS),600) || exit 1; done
	HYPOTHESIS_PROFILE=thorough OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -q \
		tests/histories/test_random_histories.py tests/base/test_random_configs.py \
		tests/cli/test_random_words.py tests/kernels/test_ring_machine.py \
		tests/model/test_memory_machine.py

bench: .venv/bench  ## measure fastad beside its peers, and rewrite docs/speed.md
	$(BIN)/fastad bench --out benchmarks/results
	$(BIN)/python -m benchmarks.speed_page

docs: .venv/dev  ## build docs/ as a site in build/site; any warning fails
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=.:kernels $(BIN)/mkdocs build --strict

notebook: .venv/dev  ## run the notebook's cells and keep what they show
	PYTHONPATH=.:kernels $(BIN)/python -m tests.run_notebook

budgets: .venv/dev  ## compile every kernel variant, write kernels/budgets.json; with CHECK=1 compare
	PYTHONPATH=kernels $(BIN)/python -m fastad_kernels.testing.budgets $(if $(CHECK),--check)

lint: .venv/dev  ## ruff, mypy, the one-way rule and the layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/check_layout.py

check: lint test  ## everything that CI runs

install: .venv/installed  ## create .venv with fastad in it

# constraints.txt pins versions known to work together; pyproject.toml keeps the honest ranges.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastad needs Python 3.11 or newer; try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt $(small_torch) torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

# Of its many thousand files the tests import few: these are compiled when first imported.
.venv/dev: .venv/installed
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/fuzz: .venv/dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,fuzz]'
	touch $@

.venv/bench: .venv/dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	touch $@

# Torch 2.11 is the newest that wants Triton 3.6, whose interpreter does not work with NumPy 2.4.
.venv-oldest/dev: pyproject.toml constraints.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	grep -vE '^(torch|triton|numpy)[=>]' constraints.txt > .venv-oldest/constraints.txt
	printf 'torch==2.11.0\ntriton==3.6.0\nnumpy==2.3.5\n' >> .venv-oldest/constraints.txt
	.venv-oldest/bin/pip install --quiet --constraint .venv-oldest/constraints.txt $(small_torch) --editable '.[dev]'
	touch $@

clean:  ## remove .venv and caches, never data or runs
	rm -rf .venv .venv-oldest .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
