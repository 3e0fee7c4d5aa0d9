# Every target sets up all it needs on a machine with Python 3.11 or newer; a second call starts at once.
# PYTHON=/path/to/python picks another interpreter.

BIN := .venv/bin
STAMP := .venv/ready
CANDIDATES := $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test lint format types data docs clean

help:
	@echo "make demo    train on the emoji for four minutes and look at what comes out"
	@echo "make test    style and all tests"
	@echo "make lint    style and types only;  make format  mends the style"
	@echo "make data    fetch the data sets of the benchmarks into data/"
	@echo "make docs    make the pictures of docs/ anew"
	@echo "make clean   remove the environment and caches, never runs or data"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@for python in $(CANDIDATES); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "fromnoise needs Python 3.11 or newer: install it, or say make PYTHON=/path/to/it"; exit 1; fi; \
	echo "Setting up .venv with $$found (once, some minutes)"; \
	$$found -m venv .venv || { echo "No venv module: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: $(STAMP)
	@run=runs/demo-$$(date +%Y%m%d-%H%M%S) && \
	$(BIN)/fromnoise train emoji --out $$run --budget 4m --size 32 --columns group && \
	$(BIN)/fromnoise sample $$run -n 64 --seed 0 --out $$run/samples/demo --strip $$run/samples/strip.png && \
	echo "Look at $$run/samples/demo/sheet.png, $$run/samples/strip.png and $$run/report.html"

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

data: $(STAMP)
	$(BIN)/python -m benchmarks.data data

docs: $(STAMP)
	$(BIN)/python -m docs.figures

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist
