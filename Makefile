# `make help` lists the targets. Each works alone in a fresh clone and needs Python 3.11, make and git on PATH.
# The first one that runs makes .venv (a few minutes, mostly torch); after that only what changed is done again.

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
VENV := .venv
BENCH := .venv-bench
BIN := $(abspath $(VENV))/bin
PIP_OPTIONS := -m pip --quiet --disable-pip-version-check --no-input
PIP := $(BIN)/python $(PIP_OPTIONS)
OUT := results
JOBS ?= 2

# Nothing of the caller's environment may leak in; two test processes share two cores.
export PYTHONNOUSERSITE := 1
export MPLBACKEND := Agg
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
LIMIT := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1

# The real example: a piece of human chr22 (hg19).
HUMAN := example/human
HUMAN_ARGS := {"genes_file": "$(HUMAN)/genes.tsv", "fasta_file": "$(HUMAN)/genome.fa.gz", \
"h3k27ac_file": "$(HUMAN)/K562.h3k27ac.bw", "dnase_file": "$(HUMAN)/K562.dnase.bw", "hic_file": "powerlaw", \
"h3k27ac_reference_file": "$(HUMAN)/GM12878.h3k27ac.bw", "dnase_reference_file": "$(HUMAN)/GM12878.dnase.bw", \
"h3k4me3_file": "$(HUMAN)/K562.h3k4me3.bw", "h3k4me1_file": "$(HUMAN)/K562.h3k4me1.bw"}

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help predict test lint docs docs-test pictures wheel wheel-test faults example bench accuracy crispri clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ------------------------------------------------------------------------------------------------- environment

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not on PATH; name another with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit((3, 11) != sys.version_info[:2])' || \
	  { echo "make: the pinned versions are for Python 3.11, $(PYTHON) is another (use pip install, see README)" >&2; exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# torch alone and first: `make TORCH='torch==2.13.0 --index-url URL'` chooses another build of it (CPU, CUDA).
$(VENV)/.torch: $(VENV)/.made
	@echo "Installing $(TORCH)"
	@$(PIP) install -c requirements.txt $(TORCH)
	@touch $@

$(VENV)/.package: $(VENV)/.torch requirements.txt pyproject.toml
	@echo "Installing the package and what it needs (requirements.txt)"
	@$(PIP) install -r requirements.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.tools: $(VENV)/.package requirements-ci.txt
	@echo "Installing what training and the checks need (requirements-ci.txt)"
	@$(PIP) install -r requirements-ci.txt
	@touch $@

# An environment of its own: what the speed is compared with needs other versions than the checks do.
$(BENCH)/.made: requirements.txt requirements-bench.txt pyproject.toml
	@echo "Making $(BENCH) with what the speed is compared with (requirements-bench.txt)"
	@$(PYTHON) -m venv --clear $(BENCH)
	@$(BENCH)/bin/python $(PIP_OPTIONS) install -c requirements.txt $(TORCH)
	@$(BENCH)/bin/python $(PIP_OPTIONS) install -r requirements-bench.txt
	@$(BENCH)/bin/python $(PIP_OPTIONS) install --no-deps --no-build-isolation -e .
	@touch $@

# ------------------------------------------------------------------------------------------------------ predict

predict: $(VENV)/.package ## predict 15 human genes through Kipoi, then show them beside what was measured
	@mkdir -p $(OUT)
	$(BIN)/seq2exp register
	PATH="$(BIN):$$PATH" kipoi predict Seq2Exp/K562 --dataloader_args='$(HUMAN_ARGS)' \
	  --keep_metadata --batch_size 1 -o $(OUT)/predictions.h5
	$(BIN)/seq2exp show $(OUT)/predictions.h5 --genes $(HUMAN)/genes.tsv --label K562_log10p1 \
	  --track h3k27ac=$(HUMAN)/K562.h3k27ac.bw --track dnase=$(HUMAN)/K562.dnase.bw --track hic=powerlaw \
	  --gtf $(HUMAN)/genes.gtf.gz --gene ENSG00000239713 --plot $(OUT)/locus.png

# ------------------------------------------------------------------------------------------------------- checks

test: $(VENV)/.tools ## ruff, import-linter, mypy, the documentation and every test (what .ci/run runs)
	@$(MAKE) --no-print-directory -j $(JOBS) lint docs
	$(LIMIT) $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal --durations=10

lint: $(VENV)/.tools ## ruff, import-linter and mypy alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

docs: $(VENV)/.tools ## build the documentation into site/ (dead links, undocumented public names and failing tutorials are errors)
	$(LIMIT) NO_MKDOCS_2_WARNING=1 PATH="$(BIN):$$PATH" $(BIN)/mkdocs build --strict --quiet

docs-test: $(VENV)/.tools ## run every command of the documentation that names the bundled example (minutes)
	$(LIMIT) PATH="$(BIN):$$PATH" $(BIN)/python -m pytest -q -m pages tests/test_docs.py

faults: $(VENV)/.tools ## hostile files, fuzzed readers, kills and full disks (minutes); writes the counts of docs/security.md
	$(LIMIT) SEQ2EXP_FAULTS_PAGE=docs/security.md PATH="$(BIN):$$PATH" $(BIN)/python -m pytest -q -m 'faults or not faults' tests/faults

pictures: $(VENV)/.package ## draw the pictures of the README and the pages again (after new weights)
	$(BIN)/python docs/pictures.py

example: $(VENV)/.package ## make the files of the invented example again (the same bytes)
	$(BIN)/python example/make_example.py

wheel: $(VENV)/.tools ## build the sdist and, from it, the wheel into dist/
	$(BIN)/python -m build --no-isolation --outdir dist .

wheel-test: $(VENV)/.tools ## install the wheel into an empty environment and predict there (downloads torch again)
	TORCH='$(TORCH)' $(BIN)/python -m pytest -q -m wheel tests/test_wheel.py

bench: $(BENCH)/.made ## measure speed beside Enformer and transformers; writes benchmarks/speed.md and .json
	$(BENCH)/bin/python benchmarks/speed.py --comparators

accuracy: $(VENV)/.tools ## measure accuracy on held-out chromosomes (SEQ2EXP_DATA=folder); writes benchmarks/accuracy.md
	$(BIN)/python benchmarks/accuracy.py

crispri: $(VENV)/.tools ## rank CRISPRi-tested pairs of the whole genome (SEQ2EXP_DATA=folder); writes benchmarks/crispri.md
	$(BIN)/python benchmarks/crispri.py

clean: ## remove the environment and everything that was made
	rm -rf $(VENV) $(BENCH) $(OUT) dist build site .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
