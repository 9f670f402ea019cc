# make demo, make test: on a machine with nothing but Python 3.11 or later and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test quality clean

demo: .venv/.installed
	$(BIN)/hf-ltc demo

test: .venv/.installed-test quality
	$(BIN)/python -m pytest -n 2

quality: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/.installed-test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@ .venv/.installed

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
