# make demo, make test: on a machine with nothing but Python 3.11 or later and make.
PYTHON ?= python3
BIN := .venv/bin
LOWEST := .venv-lowest
PRE := .venv-prereleases
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-lowest test-prereleases quality coverage docs wheel clean

demo: .venv/.installed
	$(BIN)/hf-ltc demo

test: .venv/.installed-test quality
	$(BIN)/python -m pytest -n 2

# The tests with the lowest versions that pyproject.toml allows.
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -n 2

# The tests with pre-releases of what we depend on: made anew each time.
test-prereleases:
	rm -rf $(PRE)
	$(MAKE) $(PRE)/bin/pip
	$(PRE)/bin/python $(PIP) --upgrade "pip>=25.1"
	$(PRE)/bin/python $(PIP) --pre -e . --group test
	$(PRE)/bin/python -m pytest -n 2

# Which lines the tests run, those in processes that they start too.
coverage: .venv/.installed-test
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n 2
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

quality: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry hf_ltc
	$(BIN)/deptry tests examples benchmarks model_cards --ignore DEP002,DEP004

# site/index.html. What is built stands as it does in the repository, so that links work in both.
docs: .venv/.installed-test
	rm -rf build/docs site
	mkdir -p build/docs/benchmarks/results
	cp -R README.md CHANGELOG.md CONTRIBUTING.md RELEASING.md docs examples model_cards build/docs
	cp benchmarks/results/*.md build/docs/benchmarks/results
	PYTHONPATH=. $(BIN)/zensical build --clean --strict

# dist/: what is uploaded to PyPI.
wheel: .venv/.installed-test
	rm -rf dist
	$(BIN)/python -m build

.venv/.installed: pyproject.toml | $(BIN)/pip
	$(BIN)/python $(PIP) -e .
	touch $@

.venv/.installed-test: pyproject.toml | $(BIN)/pip
	$(BIN)/python $(PIP) --upgrade "pip>=25.1"
	$(BIN)/python $(PIP) -e . --group test
	touch $@ .venv/.installed

# The list is made anew each time: uv keeps what stands in an old one.
$(LOWEST)/.installed: pyproject.toml | $(LOWEST)/bin/uv
	$(LOWEST)/bin/uv pip compile --quiet --upgrade --resolution lowest-direct --group test --python $(LOWEST)/bin/python \
		--output-file $(LOWEST)/requirements.txt pyproject.toml
	$(LOWEST)/bin/python $(PIP) --requirement $(LOWEST)/requirements.txt
	$(LOWEST)/bin/python $(PIP) --no-deps -e .
	touch $@

$(LOWEST)/bin/uv: | $(LOWEST)/bin/pip
	$(LOWEST)/bin/python $(PIP) uv

# Not bin/python: an environment that could not be finished has that already.
%/bin/pip:
	@$(PYTHON) -c 'import sys; v = "%d.%d.%d" % sys.version_info[:3]; \
		sys.exit(sys.version_info < (3, 11) and "hf_ltc needs Python 3.11 or later, and $(PYTHON) is " + v + ": make PYTHON=python3.11, say")'
	$(PYTHON) -m venv $*

clean:
	rm -rf .venv $(LOWEST) $(PRE) .cache .coverage build dist site *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
