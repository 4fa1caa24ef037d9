# `make demo` and `make test` work on a fresh machine with Python 3.11+, pip and make.
PYTHON ?= python3
BIN    := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps
# pip does one thing at a time: these packages are unpacked beside the others, and all are compiled afterwards.
LARGE  := ^(nvidia|torch|triton)
# Commands and tests start many processes; without it each would compile the packages anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-long check format ui clean
help:           ## list the targets
	@grep -E '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.venv: .venv/.installed  ## set up only
.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vidclf needs Python 3.11 or newer: make PYTHON=python3.11"; exit 2; }
	@echo "Setting up .venv (about 6 GB, a few minutes; only once)"
	$(PYTHON) -m venv .venv
	@grep -E '$(LARGE)' requirements.lock | $(INSTALL) -r /dev/stdin & large=$$!; \
	grep -vE '$(LARGE)' requirements.lock | $(INSTALL) -r /dev/stdin; small=$$?; \
	wait $$large && exit $$small
	@$(BIN)/python -m compileall -qq -j 2 .venv/lib || true  # some packages hold files of other Pythons
	$(INSTALL) -e .
	@touch $@

demo: .venv     ## set up, tune on rendered clips, promote the best, label a new clip
	@date +%s > .venv/.demo-started
	$(BIN)/vidclf data demo "$${VIDCLF_DATA:-data}/demo"
	$(BIN)/vidclf tune studies/demo.toml
	$(BIN)/vidclf promote demo --as demo --yes
	$(BIN)/vidclf predict demo@champion "$${VIDCLF_DATA:-data}/demo/new_clip.avi"
	@echo "Took $$(( $$(date +%s) - $$(cat .venv/.demo-started) )) s. Now open the study in MLflow's UI:  make ui"

# All but those marked long where CI says that it is CI, or asks for every service.
test: .venv     ## run the quick tests (make test CI=true: all but the longest, ordeals in brief)
	$(BIN)/python -m pytest $(if $(CI)$(VIDCLF_REQUIRE_SERVICES),,-m "not slow") $(PYTEST_ARGS)

test-long: .venv ## run all tests, kill storms and outages in full
	VIDCLF_TEST_LONG=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

check: .venv    ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv   ## format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ui: .venv       ## open MLflow's UI on the store
	$(BIN)/vidclf ui

clean:          ## remove the environment and caches; never the store or the data
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info
