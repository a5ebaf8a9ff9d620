# make demo   set up, then a short trial from a simulated volume to a scored result
# make test   set up, then every check that CI runs
# make napari set up napari's reader in an environment of its own (.napari), for the tests to try it
# make docs   set up, then write the documentation to build/site: open index.html there
# make clean  remove what they made
#
# Another Python:  make demo PYTHON=/path/to/python3.12

PYTHON ?= python3
VENV := .venv
NAPARI := .napari
PIP_INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test napari docs clean

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

demo: $(VENV)/installed
	$(VENV)/bin/python examples/demo.py

test: $(VENV)/installed-dev
	scripts/check

napari: $(NAPARI)/installed

docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# pip appears last in a new environment, so a half-made one is made again.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'bigdecon needs Python 3.11 or newer; "$(PYTHON)" is missing or is older.' >&2; \
	  echo 'Name another one, as in: make demo PYTHON=python3.12' >&2; exit 1; }
	@test -d $(VENV) || { mkdir $(VENV) && touch $(VENV)/made-by-make; }
	@echo 'Making the environment $(VENV)'
	@$(PYTHON) -m venv $(VENV)

# The checkout itself is installed (editable): a change in the source needs no new installation.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo 'Installing bigdecon and what it needs (some minutes the first time)'
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo 'Installing bigdecon with its test tools (some minutes the first time)'
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/installed $@

# napari brings a hundred packages, and other versions of ours: they stay apart. One test imports some of them,
# so compiling all 12 000 files would be wasted.
$(NAPARI)/installed:
	@echo 'Making the environment $(NAPARI)'
	@$(PYTHON) -m venv $(NAPARI)
	@$(NAPARI)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile napari==0.9.2 napari-ome-zarr==0.10.0
	@touch $@

# An environment that somebody made by hand stays.
clean:
	@if [ -e $(VENV)/made-by-make ]; then rm -rf $(VENV); else rm -f $(VENV)/installed $(VENV)/installed-dev; fi
	rm -rf $(NAPARI) demo build bigdecon.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find bigdecon cli tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
