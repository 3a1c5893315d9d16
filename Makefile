# make demo   see it work, on libvirt domains of its own
# make test   linters, types and all tests
# make test-lab   boot real stock and guarded KVM hosts under emulation and judge them (root, 4 GB, half an hour)
# make picture  draw the report page that README.md shows (docs/report.png)
# make bench  measure against bare peers, and write the table into docs/performance.md
# make bench-lab   count the instructions of an exit on the lab's kernels, and write the table into docs/performance.md
# Each sets up what it needs: system packages (as root, through apt), .venv, the package.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.cfg pyproject.toml README.md $(shell find pmuconf -type f -not -name '*.pyc')
PIP := $(BIN)/pip -qq --disable-pip-version-check

.PHONY: help demo test test-lab bench-lab lint bench picture sample clean

help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/host
	@$(BIN)/python -m tests.demo

test: $(VENV)/test lint
	$(BIN)/python -m pytest -n 2

test-lab: $(VENV)/test
	tests/lab/fetch corpus
	tests/lab/fetch-qemu
	tests/lab/build
	tests/lab/build-vms
	PMUCONF_TEST_LAB=1 $(BIN)/python -m pytest tests/lab

bench-lab: $(VENV)/test
	tests/lab/fetch
	tests/lab/build
	$(BIN)/python -m tests.lab.costs docs/performance.md

lint: $(VENV)/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/test
	.ci/packages bench
	$(BIN)/python -m tests.bench --big --write docs/performance.md

picture: $(VENV)/test
	$(BIN)/python -m tests.picture docs/report.png

# The sample configuration, made from the options themselves; a test fails when it is stale.
sample: $(VENV)/test
	$(BIN)/oslo-config-generator --namespace pmuconf --wrap-width 100 --output-file etc/pmuconf/pmuconf.conf.sample

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/system: bindep.txt .ci/packages
	@.ci/packages
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/host: $(VENV)/system $(SOURCES)
	@echo "Installing pmuconf[host] into $(VENV)"
	@$(PIP) install '.[host]'
	@touch $@

$(VENV)/test: $(VENV)/host
	@.ci/packages test
	@echo "Installing what the tests need into $(VENV)"
	@$(PIP) install '.[host,test]'
	@touch $@
