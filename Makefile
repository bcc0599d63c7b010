# Entry points. `make demo` and `make test` set up what they need on a Debian 12 or 13 machine, as root.
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONUNBUFFERED := 1
INVENTORY ?= inventories/flux
RINGS ?=

LAB_PACKAGES := systemd-container mmdebstrap debian-archive-keyring nftables iproute2 iputils-ping openssh-client e2fsprogs procps \
  ca-certificates python3 python3-venv git mbpoll age
TEST_PACKAGES := postgresql redis-tools curl pgbackrest nmap

.PHONY: help setup setup-test demo drills test criteria lint lab-up lab-down docs lock

help:
	@echo "make demo      boot the Flux system on real hosts and watch it work (minutes)"
	@echo "make drills    hold every drill on a system with a standby and backups, and draw the times"
	@echo "make test      all four rings of tests; RINGS='unit contract' for some"
	@echo "make criteria  docs/criteria.md from the last whole run of the tests"
	@echo "make lint      the linters of ring 2"
	@echo "make lab-up    boot the hosts of INVENTORY (default inventories/flux)"
	@echo "make lab-down  end every lab of this machine and remove its hosts"
	@echo "make docs      generate the runbooks' and roles' pages"
	@echo "make lock      resolve the Python requirements anew"

setup:
	@lab/bootstrap.sh $(LAB_PACKAGES)

setup-test:
	@lab/bootstrap.sh $(LAB_PACKAGES) $(TEST_PACKAGES)

demo: setup
	@python lab/demo.py

drills: setup
	@python lab/drills.py

test: setup-test
	@python tests/run_rings.py $(RINGS)

criteria: setup
	@python tests/criteria.py

lint: setup
	ruff check --no-cache . && ruff format --no-cache --check . && mypy && yamllint --strict . && ansible-lint --offline --profile production -q

lab-up: setup
	lab/labctl up $(INVENTORY)

lab-down: setup
	lab/labctl down --all --purge

docs: setup
	stationkeeper runbooks docs

LOCK := CUSTOM_COMPILE_COMMAND="make lock" pip-compile --quiet --upgrade --strip-extras --allow-unsafe --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

lock: setup
	$(LOCK) --extra control --extra test -o requirements/control.txt pyproject.toml
	$(LOCK) -o requirements/station.txt requirements/station.in
	$(LOCK) -o requirements/hub.txt requirements/hub.in
	$(LOCK) -o requirements/station-installer.txt requirements/station-installer.in
