# All commands set up .venv by themselves; only Python 3.11, pip and git are needed beforehand.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: quickstart test docs

quickstart: .venv/installed
	$(BIN)/llmhd quickstart

test: .venv/installed .clients/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy llmhd_pl train.py benchmarks studies
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/pretend
	PYTHONPATH=.clients OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/clients

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Other people's recommenders, beside the environment; the file says why.
.clients/installed: tests/clients/requirements.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .clients -r $<
	touch $@
