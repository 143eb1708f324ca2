# make demo: install into .venv and train on real images in minutes; make test: lint, types and tests.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

VISION_DEMO := --config recipes/digits_demo.yaml --overwrite
LANGUAGE_DEMO := --config recipes/pydoc_demo.yaml --num_epochs 1 --overwrite

.PHONY: demo gpu-check test test-all lint clean

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(RUN) -m pip install -r requirements-dev.txt
	touch $@

demo: $(VENV)/installed
	$(RUN) vision_main.py $(VISION_DEMO) --activation ZiLU --output_dir Output/demo/digits_ZiLU
	$(RUN) vision_main.py $(VISION_DEMO) --activation ReLU --output_dir Output/demo/digits_ReLU
	$(RUN) language_main.py $(LANGUAGE_DEMO) --activation ZiLU --expand_gate --output_dir Output/demo/pydoc_ZiLU_expanded
	$(RUN) language_main.py $(LANGUAGE_DEMO) --activation GELU --output_dir Output/demo/pydoc_GELU
	@echo
	@echo "After the final epoch (1 seed): accuracy on scikit-learn's digits, perplexity per byte of"
	@echo "Python's documentation. Arguments, model and results lie in the same folders."
	@grep -H "Final" Output/demo/*/train_eval_results.txt

# On a machine with a GPU, in nine minutes at most; started again it goes on.
gpu-check: $(VENV)/installed
	$(RUN) -m benchmarks.gpu_check

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m mypy

# Two processes, each with a half in the order of files, whose tests share what they have made; the
# one that ends first takes from the other's half.
test: lint
	$(RUN) -m pytest -n 2 --dist worksteal

test-all: lint
	$(RUN) -m pytest -m "slow or not slow"

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
