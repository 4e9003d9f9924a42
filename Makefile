# make reproduce   set up .venv and run the default experiment (tables, figures and a report in results/ladder/)
# make test        set up .venv and run every check but the long ones
# make test-slow   the long ones: kills, full disks, a cluster of one machine (docs/faults.md)
# make rehearse    the paper's three experiments on tiny random models, in minutes; the numbers mean nothing
# make bench       speed, memory and a reproduction's overhead into results/benchmarks (evaluate.py there wants a model)
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: reproduce test test-slow rehearse bench publish lint clean
.DELETE_ON_ERROR:

reproduce: .venv/ready
	$(BIN)/snakemake --cores all
	@echo "Tables: results/ladder/tables/  figures: results/ladder/figures/  report: results/ladder/report.html"

test: .venv/ready lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

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
	mkdir -p results/published/$(EXPERIMENT)/tables results/published/$(EXPERIMENT)/figures
	cp $(addprefix results/$(EXPERIMENT)/,scores.csv footprint.csv budget.csv) results/published/$(EXPERIMENT)/
	cp results/$(EXPERIMENT)/tables/*.md results/$(EXPERIMENT)/tables/*.csv results/published/$(EXPERIMENT)/tables/
	cp $(foreach kind,score rates also draws,$(wildcard results/$(EXPERIMENT)/figures/$(kind)*.svg)) results/published/$(EXPERIMENT)/figures/

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

.venv/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or say make PYTHON=/path/to/python3" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar off -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv resources results/ladder .snakemake
