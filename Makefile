# make demo and make test set up everything they need; PYTHON chooses the interpreter, VENV the environment's folder,
# ACCELERATOR what JAX computes on: cuda13, cuda12, tpu, or nothing for the CPU.
PYTHON ?= python3
VENV ?= .venv
ACCELERATOR ?=
RUN = $(VENV)/bin/python
READY = $(VENV)/ready$(ACCELERATOR:%=-%)

.PHONY: demo test test-slow test-wheel docs lint demo-prior clean

demo: $(READY)
	$(RUN) launch.py --config=configs/demo.py

# Two processes: most of the time is tracing and compilation, which use one core.
test: $(VENV)/ready-test
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/ready-test
	$(RUN) -m pytest -m slow

# Builds sdist and wheel, installs them into an empty environment and runs them from an empty folder.
test-wheel: $(VENV)/ready-test
	$(RUN) -m pytest -m slow tests/test_wheel.py

# The documentation as a site, in build/site; a broken link is an error.
docs: $(VENV)/ready-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

lint: $(VENV)/ready-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports

# Makes configs/demo_prior.safetensors and configs/demo_classifier.safetensors again (about an hour).
demo-prior: $(READY)
	$(RUN) launch.py --config=configs/demo_prior.py
	rm -f configs/demo_prior.safetensors configs/demo_classifier.safetensors
	$(RUN) -m brainjax.pack_prior --workdir=runs/demo_prior --out=configs

$(VENV)/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements.txt
	$(RUN) -m pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/ready-cuda13 $(VENV)/ready-cuda12 $(VENV)/ready-tpu: $(VENV)/ready-%: $(VENV)/ready
	$(RUN) -m pip install --quiet --requirement requirements.txt "jax[$*]"
	touch $@

$(VENV)/ready-docs: $(VENV)/ready requirements-docs.txt
	$(RUN) -m pip install --quiet --requirement requirements-docs.txt
	touch $@

$(VENV)/ready-test: $(VENV)/ready requirements-test.txt
	$(RUN) -m pip install --quiet --requirement requirements-test.txt
	$(RUN) -m pip install --quiet --no-deps timm==1.0.31  # its blocks are an oracle; it would bring torchvision
	touch $@

clean:
	rm -rf $(VENV) runs
