SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check chaos science bench services services-stop docs constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/demo.stamp ## run the demonstration
	.venv/bin/millrace demo

# The tests on servers are one group, which runs in one of the workers. Tests without servers mostly wait.
SIDE_BY_SIDE = -n $(if $(filter test-fast,$@),3,2) --dist loadscope

test: .venv/test.stamp services ## run the tests against real servers; ARGS='-k word' picks some
	.venv/bin/pytest $(SIDE_BY_SIDE) $(ARGS)

test-fast: .venv/test.stamp ## run the quick tests that need no server
	.venv/bin/pytest $(SIDE_BY_SIDE) --no-servers -m 'not slow' $(ARGS)

check: .venv/test.stamp ## lint, formatting, types, import direction, file length
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	@git ls-files -z '*.py' | xargs -0 awk 'FNR == 401 { print FILENAME ": more than 400 lines"; long = 1 } END { exit long }'

KILLS ?= 200
SEED ?= 1
chaos: .venv/test.stamp services ## kill, pause and cut off parts and brokers at random under load; KILLS=200 SEED=1
	.venv/bin/python -m tests.kill.chaos --kills $(KILLS) --seed $(SEED) 2>/dev/null

science: .venv/test.stamp ## measure regret, error rates and delays of policies and canaries against their gates; PARTS='canary'
	.venv/bin/python -m tests.science $(PARTS)

bench: .venv/test.stamp services ## measure a hop through RabbitMQ and Kafka, and the whole path on every broker
	set -e; . ./.services.env; folder=$$(mktemp -d); \
	for broker in "$$MILLRACE_TEST_RABBITMQ_URL" "$$MILLRACE_TEST_KAFKA_URL"; do \
		.venv/bin/python -m loadtests.hop --broker "$$broker"; \
		.venv/bin/python -m loadtests.path --broker "$$broker"; \
	done; \
	.venv/bin/python -m loadtests.path --broker "sqlite:///$$folder/bench.db"

services: ## start the servers that tests and benchmarks use
	@deploy/services/services.sh start

services-stop: ## stop them
	@deploy/services/services.sh stop

docs: ## build the docs site into site/; warnings are errors
	@deploy/docs.sh

constraints: .venv/test.stamp ## renew constraints.txt: the newest versions that pyproject.toml allows
	.venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-emit-index-url \
		--custom-compile-command 'make constraints' --output-file constraints.txt pyproject.toml

clean: services-stop ## remove everything that the targets above made
	rm -rf .venv .services .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/%.stamp: pyproject.toml constraints.txt deploy/venv.sh
	@deploy/venv.sh $*
