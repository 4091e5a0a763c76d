# make demo and make test set up everything they need; PYTHON chooses the interpreter, VENV the environment's folder,
# ACCELERATOR what JAX computes on: cuda13, cuda12, tpu, or nothing for the CPU.
PYTHON ?= python3
VENV ?= .venv
ACCELERATOR ?=
RUN = $(VENV)/bin/python
READY = $(VENV)/ready$(ACCELERATOR:%=-%)
# The locks list every package with the hashes of its files, so nothing has to be resolved.
INSTALL = -m pip install --quiet --no-deps --require-hashes --requirement
AUDIT = build/audit

.PHONY: demo test test-slow test-nightly test-wheel docs lint lock sbom audit demo-prior clean

demo: $(READY)
	$(RUN) launch.py --config=configs/demo.py

# Three tiers of tests; CONTRIBUTING.md says what is in each and how long it takes.
# Two processes: most of the time is tracing and compilation, which use one core.
test: $(VENV)/ready-test
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/ready-test
	$(RUN) -m pytest -m slow

test-nightly: $(VENV)/ready-test
	$(RUN) -m pytest -m nightly

# Builds sdist and wheel, installs them into an empty environment and runs them from an empty folder.
test-wheel: $(VENV)/ready-test
	$(RUN) -m pytest -m 'slow or nightly' tests/newcomer/test_wheel.py

# The documentation as a site, in build/site; a broken link is an error.
docs: $(VENV)/ready-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

lint: $(VENV)/ready-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports

# Writes locks/ again, after a change of a requirements file.
LOCK = $(AUDIT)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
lock: $(AUDIT)/ready
	$(LOCK) requirements.txt --output-file locks/requirements.txt
	$(LOCK) requirements-test.txt --excludes locks/excluded.txt --constraint locks/requirements.txt --output-file locks/requirements-test.txt
	$(LOCK) requirements-docs.txt --constraint locks/requirements-test.txt --output-file locks/requirements-docs.txt
	$(LOCK) requirements-audit.txt --output-file locks/requirements-audit.txt

# The packages that brainjax runs on, with their hashes, as a CycloneDX file.
sbom: $(AUDIT)/ready
	$(AUDIT)/bin/cyclonedx-py requirements locks/requirements.txt --pyproject pyproject.toml --output-reproducible -o build/sbom.json

# Known vulnerabilities of all locked packages.
audit: $(AUDIT)/ready
	@$(AUDIT)/bin/pip-audit --disable-pip --progress-spinner off --requirement locks/requirements-test.txt >build/audit.txt 2>&1; \
	status=$$?; skipped=$$(grep -c 'could not be audited' build/audit.txt); \
	if grep -q '^requests.exceptions' build/audit.txt; then \
	  echo 'NOT CHECKED: no database of vulnerabilities can be reached from here. Whether the packages are safe is unknown.'; \
	  exit 0; \
	fi; \
	cat build/audit.txt; \
	[ $$skipped = 0 ] || echo "NOT CHECKED: the database gave no answer for $$skipped packages. Whether they are safe is unknown."; \
	exit $$status

# Makes configs/demo_prior.safetensors and configs/demo_classifier.safetensors again (about an hour).
demo-prior: $(READY)
	$(RUN) launch.py --config=configs/demo_prior.py
	rm -f configs/demo_prior.safetensors configs/demo_classifier.safetensors
	$(RUN) -m brainjax.pack_prior --workdir=runs/demo_prior --out=configs

$(VENV)/ready: locks/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(INSTALL) locks/requirements.txt
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# JAX's plugins for accelerators are not in the locks.
$(VENV)/ready-cuda13 $(VENV)/ready-cuda12 $(VENV)/ready-tpu: $(VENV)/ready-%: $(VENV)/ready
	$(RUN) -m pip install --quiet --requirement requirements.txt "jax[$*]"
	touch $@

$(VENV)/ready-docs: $(VENV)/ready locks/requirements-docs.txt
	$(RUN) $(INSTALL) locks/requirements-docs.txt
	touch $@

# torch alone is without hashes: each index has other files of this version, and pip takes the CPU's where it finds it.
$(VENV)/ready-test: $(VENV)/ready locks/requirements-test.txt
	$(RUN) $(INSTALL) locks/requirements-test.txt
	$(RUN) -m pip install --quiet --no-deps "$$(grep '^torch==' requirements-test.txt)"
	touch $@

$(AUDIT)/ready: locks/requirements-audit.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python $(INSTALL) locks/requirements-audit.txt
	touch $@

clean:
	rm -rf $(VENV) build runs
