# make demo   see it work, on libvirt domains of its own
# make test   linters, types and all tests
# make deb   build the Debian packages, for Debian 12 and 13, into dist/ (root)
# make docs   the manual as HTML pages with a search, in dist/html; a link that leads nowhere fails. Links that lead out of
#             the tree are listed, and with PMUCONF_ONLINE=1 followed
# make dist   build the sdists and wheels of both distributions into dist/
# make collection   build the Ansible collection into dist/, and have Galaxy's importer judge it
#                   (PMUCONF_REPOSITORY=https://... is the address that it gets)
# make rpm   build RPM packages into dist/, judged by rpmlint; not tested on RHEL (Debian, root)
# make release VERSION=0.2.0   write that version, and build all of the above into dist/0.2.0, twice: it has to be the same
#                              (root; see docs/releasing.md)
# make version VERSION=0.2.0   write a new version wherever it stands
# make test-capstone   the tests of tests/unit/host with capstone 4.0.2, the oldest that is supported (Debian 12's)
# make test-system   install, use, upgrade and purge them on a Debian 12 and a 13 that run systemd (root, 5 GB of disk)
# make test-system-virtqemud   the service with libvirt's modular daemon, which it builds once, on a Debian 13 with systemd (root)
# make test-vm   the same packages on virtual machines of their own, for what a container hides: a kernel, KVM, packet filters,
#                AppArmor, a reboot (root, 7 GB of disk, half an hour)
# make test-lab   boot real stock and guarded KVM hosts under emulation and judge them (root, 4 GB); JOB="vms-* bench-6.1"
#                 boots only these. What it fetches and builds is kept; PMUCONF_LAB=/tmp/lab make test-lab begins anew there
# make test-nova   test the Nova plugin on PyPI's Nova 34.0.0 and Debian's 26.2.2, in environments of its own
# make test-nova-all   the same on each Nova from 26 to 34, with the packages of its time; what was seen goes into
#                      docs/verification.md (an hour, 4 GB; NOVAS="28.3.1 33.0.2": other releases)
# make test-openstack   the same on a real OpenStack that it brings up in namespaces and removes again (root, 4 GB);
#                       what each operation gave goes into docs/verification.md
# make test-libvirt   the functional tests with the libvirts of Debian 13 and of unstable, libvirtd and virtqemud, in systems
#                     that it sets up once (root, 5 GB); test-libvirt-trixie and test-libvirt-sid are one each
# make test-hosts   boot three hosts on a network of their own: the role and the playbooks over SSH, live migration (root)
# make test-ansible   test the Ansible collection on 50 hosts of its own, with ansible-core 2.19 and 2.14 (root, an hour)
# make fuzz-path   judge random functions, and run them on an emulated CPU: FUNCTIONS=1000000 SEED=1
# make picture  draw the report page that README.md shows (docs/report.png)
# make bench  measure against bare peers, and write the table into docs/performance.md
# make bench-hooks  measure the hooks of other managers, and write the table into docs/performance.md
# make bench-fleet  measure pmuconf fleet over 10,000 hosts, and write the table into docs/performance.md
# make bench-ansible   measure the Ansible module against community.libvirt, into docs/performance.md
# make soak   run the service for ten minutes over a libvirtd that comes and goes; figures into docs/performance.md
# make corpus   what pmuconf reads from the XML of libvirt's own tests, against the command lines that libvirt makes of it
# make contention   other tools edit, undefine and redefine the domains that pmuconf changes: what gets lost? (root)
# make mutants   break the code on purpose, a thing at a time, and count what the unit tests notice (hours; ONLY=policy: minutes)
# make bench-lab   count the instructions of an exit on the lab's kernels, and write the table into docs/performance.md
# make records   boot the lab's kernels and record them anew for tests/records (root, 4 GB, half an hour)
# Each sets up what it needs: system packages (as root, through apt), .venv, the package.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.cfg pyproject.toml README.md $(shell find pmuconf -type f -not -name '*.pyc')
PIP := $(BIN)/pip -qq --disable-pip-version-check

.PHONY: help demo test test-capstone test-lab test-nova test-nova-all test-openstack test-libvirt test-ansible test-hosts lint bench bench-hooks bench-fleet \
        bench-ansible bench-lab collection deb dist docs records release rpm soak test-system test-system-virtqemud test-vm version churn contention fuzz-path picture \
        corpus architecture causes mutants sample sample-nova clean

help:
	@sed -n '/^$$/q; s/^# //p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/host
	@$(BIN)/python -m tests.demo

test: $(VENV)/test lint
	$(BIN)/python -m pytest -n 3
	@if [ -e "$(NOVA)/34.0.0/ready" ]; then $(MAKE) --no-print-directory test-nova-34.0.0; \
	else echo "The Nova plugin was not tested on Nova itself: make test-nova sets that up, once"; fi

# Through PMUCONF_NOVA or the cache of whoever runs it; see tests/nova/environment.
NOVA := $(or $(PMUCONF_NOVA),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pmuconf-nova)

# It asks setuptools for its version, by what newer ones have not. Its warning of that would be in what the tests compare.
CAPSTONE := $(VENV)/capstone-4.0.2
test-capstone: $(VENV)/test
	@[ -e $(CAPSTONE) ] || $(PIP) install --target $(CAPSTONE) 'capstone==4.0.2' 'setuptools<81'
	export PYTHONPATH=$(CURDIR)/$(CAPSTONE) PYTHONWARNINGS=ignore::UserWarning:capstone && \
	$(BIN)/python -c 'import capstone; assert capstone.__version__ == "4.0.2", capstone.__file__' && \
	$(BIN)/python -m pytest -q -n 3 tests/unit/host

test-nova: test-nova-34.0.0 test-nova-debian

NOVAS := 26.0.0 27.0.0 28.0.0 29.0.0 30.0.0 31.0.0 32.0.0 33.0.0 34.0.0 debian
test-nova-all:
	@failed=""; for nova in $(NOVAS); do $(MAKE) --no-print-directory test-nova-$$nova || failed="$$failed $$nova"; done; \
	$(PYTHON) tests/nova/table.py $(NOVA) docs/verification.md; \
	[ -z "$$failed" ] || { echo "Failed:$$failed" >&2; exit 1; }

# What it found stays beside the environment, for the table.
test-nova-%:
	python=$$(tests/nova/environment $*) && \
	$$python -m pytest -q -W ignore -p no:cacheprovider --junitxml=$(NOVA)/$*/results.xml tests/nova && \
	$$python -W ignore -m tests.nova.cost $(NOVA)/$*/cost.json

test-openstack: $(VENV)/test
	.ci/packages openstack
	$(BIN)/python -m pytest -x -s tests/openstack
	$(BIN)/python -m tests.openstack.table docs/verification.md

test-libvirt: test-libvirt-trixie test-libvirt-sid

test-libvirt-%:
	.ci/packages libvirt
	tests/functional/in-debian $* python3 -m pytest -p no:cacheprovider -n 2 tests/functional

test-hosts: $(VENV)/test
	.ci/packages system
	.ci/packages ansible
	new=$$(tests/ansible/environment 2.19) && old=$$(tests/ansible/environment 2.14) && \
	PMUCONF_TEST_ANSIBLE=$$new:$$old $(BIN)/python -m pytest tests/hosts

test-ansible: $(VENV)/test
	.ci/packages ansible
	new=$$(tests/ansible/environment 2.19) && old=$$(tests/ansible/environment 2.14) && \
	PMUCONF_TEST_ANSIBLE=$$new:$$old $(BIN)/python -m pytest tests/ansible

bench-ansible: $(VENV)/test
	new=$$(tests/ansible/environment 2.19) && peer=$$(tests/ansible/environment community.libvirt) && \
	$(BIN)/python -m tests.ansible.bench $$new $$peer --write docs/performance.md

docs: $(VENV)/test
	@$(PIP) install '.[docs]'
	$(BIN)/sphinx-build -qW --keep-going -b html docs dist/html
	$(BIN)/sphinx-build -qW --keep-going -b linkcheck docs dist/links
	$(BIN)/python -m tests.docs.links

dist: $(VENV)/test
	@$(PIP) install '.[release]'
	tools/dist $(CURDIR)/$(BIN)/python dist

rpm: $(VENV)/test
	.ci/packages rpm
	@$(PIP) install '.[docs]'
	tools/rpm $(CURDIR)/$(BIN)/python dist

release:
	@[ -n "$(VERSION)" ] || { echo "make release VERSION=0.2.0" >&2; exit 255; }
	$(PYTHON) -m tests.version $(VERSION)
	$(MAKE) --no-print-directory $(VENV)/test
	.ci/packages system
	.ci/packages rpm
	@$(PIP) install '.[docs,release]'
	tools/release $(CURDIR)/$(BIN)/python dist/$(VERSION)

collection:
	@mkdir -p dist
	tests/ansible/importer dist

# The version stands in pmuconf/__init__.py; a test fails when another place has another one.
version:
	$(PYTHON) -m tests.version $(VERSION)

deb:
	.ci/packages system
	tools/deb bookworm dist
	tools/deb trixie dist

test-system: $(VENV)/test
	.ci/packages system
	@$(BIN)/python -m pytest tests/system -k trixie >$(VENV)/test-system-trixie 2>&1 & trixie=$$!; \
	$(BIN)/python -m pytest tests/system -k bookworm; status=$$?; \
	wait $$trixie || status=1; cat $(VENV)/test-system-trixie; exit $$status

test-system-virtqemud: $(VENV)/test
	.ci/packages system
	tests/system/virtqemud
	$(BIN)/python -m pytest tests/system/test_virtqemud.py -k trixie

test-vm: $(VENV)/test
	.ci/packages system
	$(BIN)/python -m pytest tests/vm

test-lab: $(VENV)/test
	tests/lab/fetch corpus
	tests/lab/fetch-qemu
	tests/lab/build
	tests/lab/build-vms
	PMUCONF_TEST_LAB=1 $(BIN)/python -m pytest -n 2 --dist loadscope tests/lab $(JOB:%=--job '%')

bench-lab: $(VENV)/test
	tests/lab/fetch
	tests/lab/build
	$(BIN)/python -m tests.lab.costs docs/performance.md

records: $(VENV)/test
	tests/lab/fetch corpus
	tests/lab/fetch-qemu
	tests/lab/build
	$(BIN)/python -m tests.lab.records

lint: $(VENV)/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/vulture
	$(BIN)/codespell
	$(BIN)/reuse lint --quiet || $(BIN)/reuse lint --lines

bench: $(VENV)/test
	.ci/packages bench
	$(BIN)/python -m tests.bench --big --write docs/performance.md

bench-hooks: $(VENV)/test
	$(BIN)/python -m tests.bench.hooks --write docs/performance.md

bench-fleet: $(VENV)/test
	$(BIN)/python -m tests.bench.fleet --write docs/performance.md

picture: $(VENV)/test
	$(BIN)/python -m tests.picture docs/report.png

FUNCTIONS := 1000000
SEED := 1

fuzz-path: $(VENV)/test
	$(BIN)/python -m tests.fuzz_path --functions $(FUNCTIONS) --seed $(SEED)

soak: $(VENV)/test
	$(BIN)/python -m tests.soak --write docs/performance.md

corpus: $(VENV)/test
	source=$$(tests/libvirt-source trixie) && $(BIN)/python -m tests.corpus pmu "$$source" && \
	$(BIN)/python -m tests.corpus native "$$source/tests" && $(BIN)/python -m tests.corpus redefine "$$source/tests"

churn: $(VENV)/test
	$(BIN)/python -m tests.churn --seconds 3600

contention: $(VENV)/test
	$(BIN)/python -m tests.contention edits --count 8000
	$(BIN)/python -m tests.contention reboots --count 20000

# The pictures of docs/architecture.md, drawn from the imports; a test fails when they are stale.
architecture: $(VENV)/test
	$(BIN)/python -m tests.house docs

# Survivors are explained in tests/mutants.txt. ONLY="policy plan" takes these parts alone.
mutants: $(VENV)/test
	@$(PIP) install '.[mutants]'
	$(BIN)/python -m tests.mutants $(if $(ONLY),--only $(ONLY))

# The page of cause codes, made from what the code declares; a test fails when it is stale.
causes: $(VENV)/test
	$(BIN)/python -m tests.causes docs/causes.md

# The sample configuration, made from the options themselves; a test fails when it is stale.
sample: $(VENV)/test
	$(BIN)/python -m tests.samples pmuconf etc/pmuconf/pmuconf.conf.sample

sample-nova:
	python=$$(tests/nova/environment 34.0.0) && \
	    $$python -W ignore -m tests.samples pmuconf.nova etc/nova/pmuconf-nova.conf.sample

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
	@mkdir -p $(VENV)/npm && cp tests/browser/package.json tests/browser/package-lock.json $(VENV)/npm
	@npm ci --silent --ignore-scripts --prefix $(VENV)/npm
	@$(PIP) install '.[host,openstack,test]'
	@touch $@
