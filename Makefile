# A fresh clone needs python3 (3.10 or newer) and a C compiler; everything else goes into .venv.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check -qq
LCODEC := $(VENV)/bin/lcodec
TESTS  ?= tests
FOLDER ?= kodak
IMAGE  ?= tests/images/colosseum.webp

# The editable install is made again when requirements or compiled sources change.
BUILT   := $(VENV)/.built
SOURCES := $(wildcard csrc/*) $(wildcard lcodec/*/*.pyx) $(wildcard lcodec/*/*.pxd)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv test test-cross test-ray lint demo bench bench-batch bench-large bench-effort bench-entropy bench-speed bench-growth bench-wavefront fuzz determinism vectors wheel sdist clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(PY):
	$(PYTHON) -m venv $(VENV)

# Without build isolation, so that the compiler runs against what is in .venv and needs no network the second time.
$(BUILT): pyproject.toml setup.cfg .constraints.txt $(SOURCES) | $(PY)
	$(PIP) install "setuptools>=80" "cython>=3.1"
	$(PIP) install --constraint .constraints.txt --no-build-isolation --editable ".[test,bench,browser,large,train,dev]"
	@touch $@

venv: $(BUILT) ## create .venv with lcodec (editable) and all tools
	@echo "ready: $(VENV)/bin/lcodec"

test: $(BUILT) ## run the tests (TESTS=tests/test_cli.py for one file)
	$(PY) -m pytest -q $(TESTS)

# Installs nothing: what is not there is skipped.
CROSS_PACKAGES := gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-s390x-linux-gnu libc6-dev-s390x-cross qemu-user
test-cross: $(BUILT) ## the C code alone: under sanitizers, and on aarch64 and s390x by qemu
	@echo "for the other processors, on Debian: apt-get install --no-install-recommends $(CROSS_PACKAGES)"
	$(PY) -m pytest -q -rs tests/test_cross.py

test-ray: $(BUILT) ## many files on a Ray cluster made for it (installs Ray)
	$(PIP) install --constraint .constraints.txt --no-build-isolation --editable ".[ray]"
	$(PY) -m pytest -q -m ray tests/test_ray.py

lint: $(BUILT) ## ruff and mypy
	$(PY) -m ruff check lcodec tests
	$(PY) -m mypy

demo: $(BUILT) ## encode, inspect and decode a photograph (IMAGE=photo.jpg for your own)
	@mkdir -p demo
	$(LCODEC) encode --verify --force -q 2 $(IMAGE) -o demo/q2.lic
	$(LCODEC) encode --verify --force -q 4 $(IMAGE) -o demo/q4.lic
	$(LCODEC) encode --verify --force -q 7 $(IMAGE) -o demo/q7.lic
	$(LCODEC) info demo/q4.lic
	$(LCODEC) decode --force demo -o demo
	@echo "compare demo/q2.png, demo/q4.png and demo/q7.png with $(IMAGE)"

bench: $(BUILT) ## shipped models beside other codecs, into README and models/ (FOLDER=kodak; goes on if broken off)
	$(LCODEC) bench $(FOLDER) -o bench-out --threads 1 --pictures 0
	$(PY) -m lcodec.bench.readme bench-out README.md --plot models/rd.svg --csv models/results.csv

bench-batch: $(BUILT) ## thousands of small images, the whole command against the codec alone (minutes)
	$(PY) -m lcodec.bench.batch

bench-large: $(BUILT) ## images of 10, 100 and 1000 megapixels: time, peak memory, regions (LARGE="--megapixels 100")
	$(PY) -m lcodec.bench.large $(LARGE)

bench-effort: $(BUILT) ## bits that --effort saves, and seconds that it takes (FOLDER=kodak; goes on if broken off)
	$(PY) -m lcodec.bench.effort $(FOLDER) -o bench-effort

bench-entropy: $(BUILT) ## speed of the rANS coder and of the wavefront, one core
	$(PY) -m lcodec.bench.entropy
	$(PY) -m lcodec.bench.wavefront

bench-speed: $(BUILT) ## what has a speed to reach, in one run (IMAGE=photo.png, COMPRESSAI_PYTHON=... for its times beside)
	$(PY) -m lcodec.bench.limit --image $(IMAGE)

bench-growth: $(BUILT) ## time and memory from 0.01 to 100 megapixels, and a plot (minutes)
	$(PY) -m lcodec.bench.growth

bench-wavefront: $(BUILT) ## speed of the integer context model alone
	$(PY) -m lcodec.bench.wavefront


FUZZ_SECONDS ?= 60
fuzz: $(BUILT) ## every stage under a fuzzer, a minute each (FUZZ_SECONDS=5; C needs clang and libclang-rt-dev)
	$(PY) tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

determinism: $(BUILT) ## latents between processes set up differently, 1000 pictures a model (IMAGES=10; goes on if broken off)
	$(PY) tests/determinism.py --images $(or $(IMAGES),1000)

vectors: $(BUILT) ## write the golden vectors again: a change in them is a change of format
	$(PY) tests/make_vectors.py

wheel: $(BUILT) ## build a wheel into dist/
	rm -rf build  # or what an earlier build left there is in the wheel, too
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

# setuptools takes tests/test_*.py by itself, and what else belongs there only by a file of this name.
sdist: $(BUILT) ## build a source archive into dist/
	printf '%s\n' 'include Makefile CHANGELOG.md .constraints.txt' 'include models/*.svg' 'graft tests' \
		'global-exclude *.py[co]' > MANIFEST.in
	trap 'rm -f MANIFEST.in' EXIT; $(PY) -c "from setuptools.build_meta import build_sdist; build_sdist('dist')" > /dev/null
	@ls dist/*.tar.gz

clean: ## remove what was built, .venv too; results of benchmarks stay
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find lcodec tests models -name __pycache__ -prune -exec rm -rf {} +
	rm -f lcodec/entropy/*.so lcodec/entropy/_*.c lcodec/cpu/*.so lcodec/cpu/_*.c
