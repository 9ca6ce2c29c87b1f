# Everything here runs in .venv, which is made by the newest Python (3.10 or later) on this machine.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# lighttpd for the redirectors, nss-wrapper for host names with several addresses, Varnish behind nginx for the edges
SYSTEM := lighttpd lighttpd-mod-openssl libnss-wrapper nginx-light varnish
# beside these for the tests: PostgreSQL is the source of an example, dnsmasq answers late, node runs CloudFront's function
TESTED := dnsmasq-base nodejs postgresql

.PHONY: help demo test check clean

help:
	@echo 'make demo    the whole picture on loopback: watch pip and buildout go on while its parts die, one by one'
	@echo 'make test    lint, types, unit and integration tests on every Python found here'
	@echo 'make check   the quick part: lint, types, and unit tests on one Python'
	@echo 'make clean   remove what the other targets made'

demo: $(VENV)/.demo
	@scripts/system-packages $(SYSTEM)
	@$(BIN)/python -m demo

test: $(VENV)/.tox
	@scripts/system-packages $(SYSTEM) $(TESTED)
	@$(BIN)/python scripts/run-tests

check: $(VENV)/.tox
	@scripts/system-packages nodejs
	@$(BIN)/python scripts/run-tests --quick

clean:
	rm -rf $(VENV) .tox build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made when it is absent, or a link to a Python that has gone away.
$(BIN)/python:
	@python=$$(scripts/interpreters --any); \
	echo "making $(VENV) with $$python"; \
	$$python -c 'import ensurepip, venv' 2>/dev/null || scripts/system-packages python3-venv; \
	$$python -m venv --clear $(VENV)

$(VENV)/.demo: setup.cfg pyproject.toml $(BIN)/python
	@echo 'installing what the demo needs'
	@$(PIP) install --editable '.[demo]'
	@touch $@

$(VENV)/.tox: Makefile $(BIN)/python
	@echo 'installing tox'
	@$(PIP) install --upgrade 'tox>=4.20'
	@touch $@
