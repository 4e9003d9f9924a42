# make reproduce   set up .venv and run the default experiment (tables, figures and a report in results/ladder/)
# make test        set up .venv and run every check but the long ones
# make test-slow   the long ones: kills, full disks, a cluster of one machine (docs/faults.md)
# make docs        the documentation as a site in build/docs; a broken link fails
# make rehearse    the paper's three experiments on tiny random models, in minutes; the numbers mean nothing
# make bench       speed, memory and a reproduction's overhead into results/benchmarks (evaluate.py there wants a model)
PYTHON ?= python3.11
BIN := .venv/bin
# pyenv's own python3.13 runs only where a version that has it is chosen
export PYENV_VERSION ?= $(shell pyenv whence $(PYTHON) 2>/dev/null | tail -n 1)
# Snakemake keeps a cache below HOME, and stops where it can't write there
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
ifneq ($(shell mkdir -p "$(CACHE)" 2>/dev/null && test -w "$(CACHE)" && echo yes),yes)
export XDG_CACHE_HOME := $(CURDIR)/resources/cache
endif
# uv leaves packages uncompiled, and a container may forbid Python to keep what it compiles: every job would do it anew,
# which takes twice as long as the imports do
export PYTHONDONTWRITEBYTECODE :=

.PHONY: reproduce test tests checks test-slow rehearse bench docs publish lint lint-python lint-types lint-workflow clean
.DELETE_ON_ERROR:

reproduce: .venv/ready
	$(BIN)/snakemake --cores all
	@echo "Tables: results/ladder/tables/  figures: results/ladder/figures/  report: results/ladder/report.html"

# the tests wait now and then (for jobs, locks, polls): docs and lint take those pauses
test: .venv/ready
	$(MAKE) --no-print-directory -j 2 tests checks

tests: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# what they print comes in one piece, not among the tests' dots
checks: .venv/ready
	@log=$$(mktemp); $(MAKE) --no-print-directory docs lint >$$log 2>&1; status=$$?; cat $$log; rm $$log; exit $$status

test-slow: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

rehearse: .venv/ready
	$(BIN)/snakemake --cores all --config experiment=rehearsal

bench: .venv/ready
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/adapters.py
	$(BIN)/python benchmarks/experts.py --output results/benchmarks/experts.json
	$(BIN)/python benchmarks/whole_model.py
	$(BIN)/python benchmarks/footprint.py --quick --output results/benchmarks/footprint.json
	$(BIN)/python benchmarks/overhead.py --experiment ladder

# what README.md and the notebooks show: make publish EXPERIMENT=smollm2
EXPERIMENT ?= ladder
publish: .venv/ready
	$(BIN)/sbora-bench publish -e $(EXPERIMENT)
	$(BIN)/sbora-bench publish-traces

docs: .venv/ready
	$(BIN)/mkdocs build --strict --quiet --site-dir build/docs

lint: lint-types lint-workflow lint-python

lint-python: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

lint-types: .venv/ready
	$(BIN)/mypy

lint-workflow: .venv/ready
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

# uv where it is at hand or pip can install it, pip itself else; the same lock, and pip's own package folders and indexes
PIP := $(BIN)/python -m pip --disable-pip-version-check
.venv/ready: export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
.venv/ready: export UV_DEFAULT_INDEX ?= $(or $(PIP_INDEX_URL),https://pypi.org/simple)
.venv/ready: export UV_EXTRA_INDEX_URL ?= $(PIP_EXTRA_INDEX_URL)
.venv/ready: export UV_INDEX_STRATEGY ?= unsafe-best-match
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
	  { echo "make: $(PYTHON) is no Python 3.11 to 3.13 here: install one, or say make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@uv=$$(command -v uv) || { $(PIP) install --quiet uv && uv=$(BIN)/uv; } || uv=; \
	for what in "-r requirements.lock" "--no-deps --no-build-isolation --editable ."; do \
	  { test -n "$$uv" && $$uv pip install --quiet --python $(BIN)/python $$what; } || \
	    $(PIP) install --quiet --progress-bar off $$what || exit 1; \
	done
	touch $@

clean:
	rm -rf .venv build resources results/ladder .snakemake
