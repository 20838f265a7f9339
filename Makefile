# Each target does its own set-up. `make tutorial DATASET=../photos MODEL=folder-or-hub-id
# PARAMS=notebooks/params/gpu.yaml` chooses what to run on; the environment works as well.
SHELL := /bin/bash
run = ci/build.sh $(1) && "$$(cat build/.python)" -m
options = $(if $(DATASET),--dataset "$(DATASET)") $(if $(MODEL),--model "$(MODEL)") $(if $(PARAMS),--params-file "$(PARAMS)")
.PHONY: tutorial test test-long lint docs docs-serve lab cluster cluster-down hosts constraints clean

# What make starts runs on a Ray of its own, whatever else runs on this machine.
tutorial test test-long docs docs-serve: export DOGGOS_ADDRESS ?= local

tutorial:  ## run the notebooks into build/tutorial
	@$(call run) doggos_helpers.batch $(options)
test:  ## unit tests, tests on a local Ray, the notebooks on a cluster of three nodes
	@$(call run,dev) pytest -n 2 -m "not long"
test-long:  ## everything, with what takes too long for a user
	@$(call run,dev) pytest
lint:  ## style, types, and the contract of imports
	@$(call run,dev) ruff check . && "$$(cat build/.python)" -m ruff format --check . && "$$(cat build/.python)" -m mypy \
	  && "$$(dirname "$$(cat build/.python)")/lint-imports"
docs:  ## the pages, strictly, into build/docs/html; a notebook that changed runs before
	@$(call run,dev) tools.docs build
docs-serve:  ## the pages on this machine, on port 8080
	@$(call run,dev) tools.docs serve
lab:  ## JupyterLab on the notebooks; an exported RAY_ADDRESS reaches them
	@$(call run) jupyterlab notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)
cluster:  ## a head and two worker nodes on this machine; prints the lines to export
	@$(call run) tools.local_cluster up
cluster-down:
	@$(call run) tools.local_cluster down
hosts:  ## four hosts on this machine (needs root), and a shell on one of them
	@$(call run,dev) tests.hosts
constraints:  ## constraints.txt for every Python and platform, after changing a pin
	@tools/constraints.sh
clean:
	@rm -rf build
