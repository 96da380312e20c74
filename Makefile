# SPDX-License-Identifier: GPL-3.0-or-later
# `make` lists what there is. Every target can be run again at any time.

PYTHON ?= python3
VENV := .venv
INVENTORY ?= inventory/local
# Further arguments for ansible-playbook or pytest: make up ARGS="--check --diff"
ARGS ?=

# Settings of the user's shell must not change what a run of this checkout does.
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export LC_ALL := C.UTF-8
export PYTHONUTF8 := 1
unexport ANSIBLE_LIBRARY ANSIBLE_MODULE_UTILS ANSIBLE_ROLES_PATH PYTHONPATH PYTHONHOME

PREPARE := $(PYTHON) scripts/prepare.py
CHECK := $(VENV)/bin/python scripts/check.py
LAB := PYTHONPATH=tests/lab $(VENV)/bin/python -m virtlab
# Root needs no sudo, and a sudo that asks for nothing no password.
BECOME = $(shell [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null || echo --ask-become-pass)
PLAYBOOK = $(VENV)/bin/ansible-playbook -i $(INVENTORY) $(BECOME)

.DEFAULT_GOAL := help
.PHONY: help up down preflight lab lab-down test lint bench soak helper venv clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

up: ## check this machine, make it ready and start its guests
	@$(PREPARE) run
	@$(PLAYBOOK) playbooks/site.yml $(ARGS)

down: ## take the declared guests away, and only them
	@$(PREPARE) run
	@$(PLAYBOOK) playbooks/guests.yml -e kvm_guest_state=absent $(ARGS)

preflight: ## only check this machine, changing nothing
	@$(PREPARE) run
	@$(PLAYBOOK) playbooks/preflight.yml $(ARGS)

lab: ## raise KVM hosts as virtual machines and run their guests; needs no virtualization, but root
	@$(PREPARE) lab
	@$(LAB) up
	@$(VENV)/bin/ansible-playbook -i inventory/lab playbooks/site.yml $(ARGS)

lab-down: ## take the lab away
	@$(PREPARE) lab
	@$(LAB) down

test: ## check everything: lint, unit tests, tests on the real /dev/kvm, the lab
	@$(PREPARE) test
	@$(CHECK) test $(ARGS)

lint: ## run every linter, at its strictest
	@$(PREPARE) test
	@$(CHECK) lint

bench: ## measure what is promised about speed, as ratios within one run
	@$(PREPARE) bench
	@$(CHECK) bench $(ARGS)

soak: ## run the long forms of the fuzz and fault tests
	@$(PREPARE) test
	@$(CHECK) soak $(ARGS)

helper: ## write the helper to build/kvm-helper.pyz, for use by hand
	@$(PYTHON) module_utils/kvm/archive.py build/kvm-helper.pyz

venv: ## install all that the other targets need
	@$(PREPARE) test

clean: ## remove what the other targets made in this folder
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .ansible
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
