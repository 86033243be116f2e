# setup: a virtual environment with all that a CPU server and a developer need.
# demo: one-shot FGL, end to end.  test, lint, bench.
# fuzz: hostile files by the ten thousand, kills by the hundred and 2,000 rounds of hostile replies, for hours.
# test-federation: what a federation's guide says, with real servers and clients that are killed; ten minutes.
# bench-peers: ours beside diffusers and optimum, which live in .venv-peers.
# bench-accuracy: one-shot accuracy, three seeds; DATA is the bundled sample or, say, your fashion_mnist.npz.
# test-gpu: every engine, training and two ranks on an NVIDIA GPU, with the packages of $(PYTHON): benchmarks/README.md.
PYTHON ?= python3
DATA ?= fashion
FUZZ_CASES ?= 10000
FUZZ_KILLS ?= 200
BIN := .venv/bin
PEERS := .venv-peers/bin/python -m pip

.PHONY: setup demo test test-federation test-gpu fuzz lint bench bench-accuracy bench-peers clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fglfast needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[server,cpu,fed,privacy,sign,pretrain,dev]'
	touch $@

demo: setup
	$(BIN)/fglfast demo

test: setup
	$(BIN)/python -m pytest

test-federation: setup
	$(BIN)/python -m pytest tests/federation -m long

fuzz: setup
	FUZZ_CASES=$(FUZZ_CASES) FUZZ_KILLS=$(FUZZ_KILLS) $(BIN)/python -m pytest tests/fuzz tests/synthesis tests/federation -m fuzz

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks.engines mini
	$(BIN)/python -m benchmarks.engines unet-35m
	$(BIN)/python -m benchmarks.client
	$(BIN)/python -m pytest benchmarks -n 0 --benchmark-enable --benchmark-json benchmarks/results/pytest-benchmark.json
	$(BIN)/python -m benchmarks.table --write

bench-accuracy: setup
	$(BIN)/python -m benchmarks.accuracy --private $(DATA):private --test $(DATA):test
	$(BIN)/python -m benchmarks.table --write

bench-peers: setup .venv-peers/installed
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.plot
	$(BIN)/python -m benchmarks.table --write

test-gpu:
	$(PYTHON) -m benchmarks.gpu

# torchvision comes with optimum-intel and breaks beside the CPU's torch; optimum-onnx asks for an older optimum.
.venv-peers/installed: constraints.txt
	$(PYTHON) -m venv .venv-peers
	$(PEERS) install --quiet --disable-pip-version-check -c constraints.txt \
		'optimum-intel[openvino]>=2.2' 'diffusers>=0.38' accelerate
	$(PEERS) uninstall --quiet --yes torchvision
	$(PEERS) freeze > .venv-peers/packages.txt
	$(PEERS) install -c .venv-peers/packages.txt 'optimum-onnx[onnxruntime]' > .venv-peers/refused.txt 2>&1 \
		&& rm .venv-peers/refused.txt || true
	touch $@

clean:
	rm -rf .venv .venv-peers fglfast-demo engines/build
