# make demo            install into .venv, ray-trace a scene, train it, render and score held-out views, show them
# make test            install into .venv, run the tests
# make lint            ruff and mypy --strict over everything
# make check-native    the native code under sanitizers (Linux); CHECK=--quick for a part of it, as in .ci/run
# make check-safety    crash trials, fuzzing and soak: minutes each, see docs/reliability.md
# make check-benchmarks  the CPU's benchmark in short: whether it runs to its end; its times mean nothing
# make clean           remove what the targets above have made
#
# Nothing is installed outside this folder, and what is finished is not done again.
#   PYTHON=python3.12                   another interpreter, 3.10 or newer
#   CXX=clang++                         another C++20 compiler
#   TORCH="torch --index-url URL"       another torch than the newest of those that gns was tried with, such as the
#                                       CPU-only build that pytorch.org's selector names: on Linux the default brings
#                                       several GB of CUDA libraries
#   DEMO_BUDGET=20000                   another number of Gaussians (after `make clean-demo`)

PYTHON ?= python3
TORCH ?= torch>=2.1,<2.14
# A range such as >=2.1 is quoted, or the shell would write to files of that name; options of pip are left apart.
TORCH_REQUIREMENT = '$(firstword $(TORCH))' $(wordlist 2,$(words $(TORCH)),$(TORCH))
DEMO_BUDGET ?= 10000
DEMO_ITERATIONS ?= 5000

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-cache-dir
NATIVE := pyproject.toml CMakeLists.txt $(wildcard gns/csrc/* gns/csrc/*/*)
SCENE := demo/scene/sparse/0/points3D.txt
MODEL := demo/model/point_cloud/iteration_$(DEMO_ITERATIONS)/point_cloud.ply
PICTURE := demo/comparison.png

export CXX

.PHONY: demo test lint check-native check-safety check-benchmarks clean clean-demo
.DELETE_ON_ERROR:

demo: $(PICTURE)
	@echo
	@echo "Held-out views: photo left, render right   $(PICTURE)"
	@echo "The model, $(DEMO_BUDGET) Gaussians        $(MODEL)"
	@echo "How it came about                         demo/model/report.html"

test: .venv/tested-with
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/tested-with
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

check-native: .venv/checked-with
	$(BIN)/python -m benchmarks.check_native $(CHECK)

check-safety: .venv/fuzzed-with
	$(BIN)/python -m benchmarks.crash_trials
	$(BIN)/python -m benchmarks.soak
	$(BIN)/python -m benchmarks.fuzz_readers

check-benchmarks: .venv/tested-with
	$(BIN)/python benchmarks/cpu.py --quick --rounds 1 --gaussians 2000 --out build/benchmark

$(PICTURE): $(MODEL)
	$(BIN)/python render.py -m demo/model --skip-train
	$(BIN)/python metrics.py -m demo/model
	$(BIN)/python -m gns.demo compare demo/model $@

$(MODEL): $(SCENE)
	$(BIN)/python train.py -s demo/scene -m demo/model --final-budget $(DEMO_BUDGET) --iterations $(DEMO_ITERATIONS) --resume

$(SCENE): $(wildcard gns/demo/*.py) | .venv/installed
	rm -rf demo
	@echo "Ray-tracing the demo scene (about a quarter of a minute)"
	$(BIN)/python -m gns.demo scene demo/scene

# The native code decides whether to install again: scripts and tests that start here see the Python files themselves.
.venv/installed: $(NATIVE) | .venv/torch
	@echo "Building and installing gns"
	$(PIP) install ".[plot]"
	@touch $@

.venv/tested-with: $(NATIVE) | .venv/torch
	@echo "Building and installing gns and what its tests need"
	$(PIP) install ".[test]"
	@touch .venv/installed $@

# One build serves the tests too: continuous integration begins with this target.
.venv/checked-with: $(NATIVE) | .venv/torch
	@echo "Building and installing gns and what its tests and sanitizers need"
	$(PIP) install ".[test,check]"
	@touch .venv/installed .venv/tested-with $@

.venv/fuzzed-with: .venv/tested-with
	$(PIP) install ".[fuzz]"
	@touch $@

.venv/torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "gns needs Python 3.10 or newer, and $(PYTHON) is older or missing: name another with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@printf '#include <concepts>\nint main() { return 0; }\n' | $(CXX) -std=c++20 -x c++ -fsyntax-only - 2>/dev/null || \
		{ echo "gns needs a C++20 compiler, and $(CXX) is none: install g++ 11 or newer (Debian, Ubuntu: apt install g++), or name one with make CXX=..."; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing $(firstword $(TORCH))"
	$(PIP) install $(TORCH_REQUIREMENT)
	@touch $@

clean: clean-demo
	rm -rf .venv build

clean-demo:
	rm -rf demo
