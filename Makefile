# Each target sets up .venv when it is missing or older than what it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Set CONSTRAINTS= (empty) for the newest versions, such as a CUDA build of torch.
CONSTRAINTS ?= constraints-cpu.txt

export TOKENIZERS_PARALLELISM = false

.PHONY: setup demo seeds test slow lint format golden bench faults cluster clean

setup: $(READY)

$(READY): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	touch $@

# The main job, on two workers: twelve sequential tasks with LPI, then Diff-Prompt's three stages.
demo: $(READY)
	$(BIN)/promptide prepare experiment=demo
	$(BIN)/promptide run experiment=demo
	$(BIN)/promptide prepare experiment=diff_prompt_demo
	$(BIN)/promptide run experiment=diff_prompt_demo

# The figures of the README's table: three seeds, and the fine-tuned ceiling.
seeds: $(READY)
	$(BIN)/promptide prepare experiment=demo
	for seed in 0 1 2; do $(BIN)/promptide run experiment=demo seed=$$seed run_name=lpi-seed$$seed || exit 1; done
	for seed in 0 1 2; do $(BIN)/promptide run experiment=ceiling seed=$$seed run_name=ceiling-seed$$seed || exit 1; done

test: $(READY)
	$(BIN)/python -m pytest

# What takes half a minute and more a test: killed workers, sweeps, whole streams of real formats.
slow: $(READY)
	$(BIN)/python -m pytest -m 'slow and not faults'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/bandit -q -c pyproject.toml -r system actors tuning configs
	$(BIN)/python -m tests.known_vulnerabilities

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(READY)
	$(BIN)/python -m tests.golden tests/golden

# Speed and memory, as ratios measured in one run; nothing is asserted on a clock. BENCH picks some by
# their names (pytest -k), whose figures then stand alone in the file.
PERFORMANCE ?= docs/results/performance.md
BENCH ?=
bench: $(READY)
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks $(if $(BENCH),-k '$(BENCH)') \
	    --performance $(PERFORMANCE)

# Kills processes of a run, tears its records and takes its storage away, at random points.
KILLS ?= 50
SEED ?= 0
faults: $(READY)
	$(BIN)/python -m pytest -m faults --kills=$(KILLS) --fault-seed=$(SEED) tests/faults

# Jobs on a Ray cluster of two nodes on this machine, token authentication on.
cluster: $(READY)
	$(BIN)/python -m pytest -m cluster tests/cluster

clean:
	rm -rf $(VENV) runs data
