# The project's verbs, for people and for CI. `make` alone lists them.
# Needs a POSIX shell and python3; everything else is in $(VENV), which `make setup` makes.

PYTHON ?= python3
VENV ?= .venv
# auto takes torch's CPU build where one is offered; or cpu, or cuda.
TORCH ?= auto
# Passed on: make bench ARGS="--model gpt-nano", make test ARGS="-k record".
ARGS ?=

BIN = $(VENV)/bin
SHELL_SCRIPTS = $$(git ls-files --cached --others --exclude-standard -- '*.sh' .ci/run)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## make or update the virtual environment from the locks (TORCH=cpu|cuda to choose)
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	    echo "error: missing: $(PYTHON)" >&2; \
	    echo "hint: apt-get install -y git make python3 python3-venv python3-dev g++" >&2; \
	    exit 2; }
	@$(PYTHON) bench/host/venv.py --venv $(VENV) --torch $(TORCH)

.PHONY: setup-browser
setup-browser: setup ## add what the browser tests need beside chromium and npm
	@for program in chromium npm; do command -v $$program >/dev/null 2>&1 || { \
	    echo "error: missing: $$program" >&2; \
	    echo "hint: apt-get install -y chromium nodejs npm" >&2; \
	    exit 2; }; done
	@$(BIN)/python -I -m pip --disable-pip-version-check install --quiet --no-deps \
	    --require-hashes --only-binary :all: -r tests/browser/requirements.txt
	@cd tests/browser && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

.PHONY: setup-devcontainer
setup-devcontainer: setup ## add the devcontainer CLI, for its test
	@command -v npm >/dev/null 2>&1 || { \
	    echo "error: missing: npm" >&2; echo "hint: apt-get install -y nodejs npm" >&2; exit 2; }
	@cd tests/docker/workplace && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

.PHONY: setup-assembler
setup-assembler: $(VENV)/cuda/made ## add NVIDIA's compiler and assembler, which tests without a GPU ask

$(VENV)/cuda/made: docker/locks/cuda.txt bench/build/cuda.py | setup
	@rm -rf $(VENV)/cuda $(VENV)/cuda-wheels
	@$(BIN)/python -I -m pip --disable-pip-version-check install --quiet --no-deps --no-compile \
	    --require-hashes --only-binary :all: --target $(VENV)/cuda-wheels -r $<
	@$(BIN)/python bench/build/cuda.py $(VENV)/cuda-wheels $(VENV)/cuda $(VENV)/cuda-wheels/stub
	@rm -rf $(VENV)/cuda-wheels
	@touch $@

.PHONY: devcontainer
devcontainer: setup ## make what .devcontainer/ opens: image, git identity, ssh agent (ARGS="--help")
	@$(BIN)/invoke devcontainer $(ARGS)

.PHONY: bench
bench: setup ## measure GPT-2 before and after TVM's optimisation (ARGS="--model gpt-nano")
	@$(BIN)/invoke bench $(ARGS)

.PHONY: benchmark
benchmark: setup ## measure all backends on eight workloads, three times; print the tables (hours)
	@$(BIN)/python -m benchmarks.peers $(ARGS)

.PHONY: scaling
scaling: setup ## measure how the cost grows with length, context, depth and threads
	@$(BIN)/python -m benchmarks.scaling $(ARGS)

.PHONY: test
test: setup ## run the tests, but for the slow ones (ARGS="-k record")
	@$(BIN)/pytest $(ARGS)

.PHONY: test-slow
test-slow: setup ## run the slow tests alone
	@$(BIN)/pytest -m slow $(ARGS)

.PHONY: check
check: check-format check-lint check-types check-shell check-docker ## all checks but the tests

.PHONY: check-format
check-format: setup ## ruff format, changing nothing
	@$(BIN)/ruff format --check .

.PHONY: check-lint
check-lint: setup ## ruff
	@$(BIN)/ruff check .

.PHONY: check-types
check-types: setup ## mypy, strict
	@$(BIN)/mypy

.PHONY: check-shell
check-shell: setup ## shellcheck on every shell script
	@PATH=$(BIN):$$PATH; shellcheck $(SHELL_SCRIPTS)

.PHONY: check-docker
check-docker: setup ## hadolint on the Dockerfile
	@$(BIN)/hadolint docker/Dockerfile

.PHONY: format
format: setup ## rewrite the Python code in its standard form
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: lock
lock: setup ## resolve the locks anew (ARGS="--upgrade" moves versions)
	@UV=$(abspath $(BIN)/uv) PYTHON=$(abspath $(BIN)/python) docker/locks/update.sh $(ARGS)

.PHONY: engine
engine: ## start the project's private Docker engine (as root, Debian family)
	@docker/engine.sh up

.PHONY: engine-down
engine-down: ## stop it
	@docker/engine.sh down

.PHONY: clean
clean: ## delete compiled artefacts and caches
	@test -x $(BIN)/invoke || { \
	    echo "error: $(BIN)/invoke is not there" >&2; echo "hint: make setup" >&2; exit 2; }
	@$(BIN)/invoke clean $(ARGS)

.PHONY: distclean
distclean: ## delete the environment and the tools' caches; results and artefacts stay
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
