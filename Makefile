# Entry points. `make demo` and `make test` set up what they need on a Debian 12 or 13 machine (as root).
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1

.PHONY: setup demo test lint lab-up lab-down docs
