# Everything runs in a virtual environment of its own, made on first use.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := setup.py pyproject.toml constraints.txt $(shell find kernels -name '*.cpp' -o -name '*.h')

.PHONY: demo test lint bench bench-gpu bench-hessian static clean

demo: .venv/installed  ## the paper's figures from networks trained here, on real data, in out/demo/index.html
	$(BIN)/alternet poster --data mnist5k --epochs 8 --fraction 0.05 --out out/demo

test: .venv/installed  ## every test that can run on this machine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed  ## the tables of the README
	$(BIN)/python -m benchmarks

bench-gpu: .venv/installed  ## every operator on a GPU: right first, then timed against its peers
	$(BIN)/python -m benchmarks.gpu

bench-hessian: .venv/installed  ## eigenvalues of whole networks, beside PyHessian, curvlinops and hessian-eigenthings
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[peers]'
	$(BIN)/python -m benchmarks.hessian

static: .venv/installed  ## registers, spills and shared memory of every Triton kernel, compiled without a GPU
	$(BIN)/python -m benchmarks.static

# torch first: setup.py builds the C++ kernels against it
.venv/installed: $(SOURCES)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch torchvision 'setuptools>=77' wheel ninja
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[demo,dev]'
	$(BIN)/python -m alternet info
	touch $@

clean:
	rm -rf .venv build out *.egg-info alternet/*.so
