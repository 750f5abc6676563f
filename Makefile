# One target per habit. `make` lists them.
PYTHON ?= python3
VENV ?= .venv
VISION ?= .venv-vision
PYTEST ?= $(VENV)/bin/python -m pytest
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-vision lint format bench prove docs constraints clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# the stamps are older than what they were made from when something must be installed again
$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt torch setuptools wheel
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(VISION)/.ready: pyproject.toml constraints-vision.txt
	test -x $(VISION)/bin/python || $(PYTHON) -m venv $(VISION)
	$(VISION)/bin/python -m pip install --quiet -c constraints-vision.txt -e '.[vision,language,prune]' pytest pytest-timeout
	@touch $@

demo: $(VENV)/.demo  ## the main job on real input, in about a minute after the install
	$(VENV)/bin/limbeck demo

test: $(VENV)/.dev  ## every test but those of the vision environment
	OMP_NUM_THREADS=1 $(PYTEST) tests --ignore=tests/vision -m 'not processes' -n 2 --dist loadfile
	OMP_NUM_THREADS=1 $(PYTEST) tests --ignore=tests/vision -m processes

test-vision: $(VISION)/.ready  ## tests that need timm and torchvision, in an environment of their own (6 GB)
	OMP_NUM_THREADS=2 $(VISION)/bin/python -m pytest tests/vision

lint: $(VENV)/.dev  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev  ## put the code into form
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.dev  ## speed and memory, side by side with a plain loop and with peers (those that are installed)
	$(VENV)/bin/python benchmarks/startup.py
	$(VENV)/bin/python benchmarks/kd_epoch.py
	$(VENV)/bin/python benchmarks/store.py
	$(VENV)/bin/python benchmarks/walk.py
	$(VENV)/bin/python benchmarks/lm_step.py

bench-peers: $(VISION)/.ready  ## the KD epoch again, beside torchdistill, in the vision environment
	$(VISION)/bin/python -m pip install --quiet -c constraints-vision.txt torchdistill
	$(VISION)/bin/python benchmarks/kd_epoch.py --peers

prove: $(VENV)/.dev  ## run the proofs: make prove, or make prove SLUG=kd
	$(VENV)/bin/limbeck prove $(or $(SLUG),--all)

docs: $(VENV)/.dev  ## the pages that are generated from recipes and proofs
	$(VENV)/bin/python -m limbeck.recipes.docs

constraints: $(VENV)/.dev  ## write down the installed versions
	(echo "# Exact versions that the tests were run with (make test). Update: make constraints"; \
	 $(VENV)/bin/pip freeze --exclude-editable | sed 's/+cpu//') > constraints.txt

clean:  ## remove what was made here, runs and environments too
	rm -rf $(VENV) $(VISION) runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
