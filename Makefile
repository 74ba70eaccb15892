# Two commands matter: `make demo` and `make test`. Both set up .venv first; repeating them is safe.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help setup demo test check format soak life fuzz bench clean

help:
	@echo "make demo    install, then send four synthetic patients through the node and show the reports"
	@echo "make test    install, then run the tests, two files at a time (TEST_PROCESSES)"
	@echo "make soak    kill the node SOAK_KILLS times (1000), and say what was lost; an hour"
	@echo "make life    let LIFE_COUNT (5000) made-up lives of series and jobs come right, and say where one does not; an hour and a half"
	@echo "make fuzz    send the receiver 30,000 broken associations, and say what became of them; half an hour"
	@echo "make bench   measure brace removal, training, classifying, latency, growth, and receiving (with DCMTK and Orthanc installed); two hours"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make format  let ruff reformat"
	@echo "make clean   remove .venv and everything generated"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dicom-node needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/dicom-node demo

test: setup
	$(BIN)/python -m pytest --numprocesses $(or $(TEST_PROCESSES),2) --dist loadfile --no-loadscope-reorder

soak: setup
	$(BIN)/python benchmarks/soak.py --kills $(or $(SOAK_KILLS),1000)

life: setup
	$(BIN)/python tests/lifecycle.py --examples $(or $(LIFE_COUNT),5000)

fuzz: setup
	$(BIN)/python tests/fuzzing.py --count $(or $(FUZZ_COUNT),24000)
	$(BIN)/python tests/fuzzing.py --count $(or $(FUZZ_COUNT),6000) --loop pynetdicom --at-once 24

bench: setup
	$(BIN)/python -m benchmarks.brace
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.receive
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.inference
	$(BIN)/python -m benchmarks.inference --memory
	$(BIN)/python -m benchmarks.feeding
	$(BIN)/python -m benchmarks.latency

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo-output build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
