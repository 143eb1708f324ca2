# make demo: install into .venv and train on real images in minutes; make test: lint and tests.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

DEMO_FLAGS := --config recipes/digits_demo.yaml --overwrite

.PHONY: demo test test-all lint clean

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(RUN) -m pip install -r requirements-dev.txt
	touch $@

demo: $(VENV)/installed
	$(RUN) vision_main.py $(DEMO_FLAGS) --activation ZiLU --output_dir Output/demo/ZiLU
	$(RUN) vision_main.py $(DEMO_FLAGS) --activation ReLU --output_dir Output/demo/ReLU
	@echo
	@echo "Test accuracy on scikit-learn's digits after the final epoch (1 seed):"
	@grep -H "Final" Output/demo/ZiLU/train_eval_results.txt Output/demo/ReLU/train_eval_results.txt
	@echo "Arguments, model and results lie in Output/demo/ZiLU and Output/demo/ReLU."

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

test: lint
	$(RUN) -m pytest

test-all: lint
	$(RUN) -m pytest -m "slow or not slow"

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
