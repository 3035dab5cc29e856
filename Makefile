# What people and CI run. Everything happens in virtual environments beside this file, which are
# made anew when pyproject.toml changes.

VENV := .venv
# The oldest supported Dagster, with the code of today.
OLDEST_VENV := .venv-oldest
OLDEST := dagster==1.13.0
# The two sides of the benchmarks. dagster-celery asks for one Dagster alone, which ours gets too.
BENCH_VENV := .venv-bench
ORIGINAL_VENV := .venv-original
ORIGINAL := 'dagster-celery[redis]==0.29.27' 'celery==5.7.0'
SAME_DAGSTER := dagster==1.13.27
# The work of one of their jobs: as `bench` in pyproject.toml has it.
PANDAS := 'pandas>=2,<4'
# Tests wait for processes to start more than they compute. Those that share workers and servers
# stay together (compat_tests/conftest.py says which).
SPREAD := -n 3

.PHONY: help demo demo-ui test lint tests legacy tests-oldest servers soak bench clean

help:
	@echo "make demo     two example projects, run on workers on this machine: one of our own, and"
	@echo "              one as users of dagster-celery have it"
	@echo "make demo-ui  the same in Dagster's UI, with the run launcher, until Ctrl-C"
	@echo "make test     everything that is checked, servers included"
	@echo "make lint     style and types alone"
	@echo "make legacy   dagster-celery's own tests, unmodified, on RabbitMQ and on Redis"
	@echo "make soak     half an hour of kills, cancels and cuts, and what came of it"
	@echo "make bench    how fast it is beside dagster-celery with Celery, which it fetches; it"
	@echo "              takes more than an hour"
	@echo "make clean    remove what the others have made"

demo: $(VENV)/.installed
	$(VENV)/bin/dagster-taskiq demo
	@echo
	$(VENV)/bin/python -m examples.demo

# On another port, or another broker: make demo-ui ARGS='--port 3001'
demo-ui: $(VENV)/.installed-ui
	$(VENV)/bin/dagster-taskiq demo --ui $(ARGS)

test: servers lint tests legacy tests-oldest

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# One test, or some: make tests ARGS='-k redis -x'
tests: servers $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest $(SPREAD) $(ARGS)

# One after the other, and nothing beside them: they have deadlines of their own, and all use the
# RabbitMQ on this machine's port 5672, or start one there.
legacy: servers $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest legacy_tests $(ARGS)

# pytest fails when it finds no test with this marker, so this can not fall silent.
tests-oldest: servers $(OLDEST_VENV)/.installed-dev
	$(OLDEST_VENV)/bin/python -m pytest -m oldest $(SPREAD) $(ARGS)

servers:
	scripts/install-servers

# Half an hour on one broker: make soak ARGS='--broker redis --minutes 5 --seed 7'
soak: servers $(VENV)/.installed-dev
	$(VENV)/bin/python -m compat_tests.faults.soak $(ARGS)

# Some of it, in a few minutes: make bench ARGS='--only chain --rounds 1 --places redis'
bench: servers $(BENCH_VENV)/.installed $(ORIGINAL_VENV)/.installed
	$(BENCH_VENV)/bin/python -m benchmarks.run $(ARGS)

clean:
	rm -rf $(VENV) $(OLDEST_VENV) $(BENCH_VENV) $(ORIGINAL_VENV)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# The stamps are younger than what they were made from, and are not there after a failure.

$(VENV)/.installed: pyproject.toml scripts/make-venv
	scripts/make-venv $(VENV) --editable .
	@touch $@

$(VENV)/.installed-ui: $(VENV)/.installed
	scripts/make-venv --into $(VENV) --editable '.[ui]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	scripts/make-venv --into $(VENV) --editable '.[dev]'
	@touch $@

$(OLDEST_VENV)/.installed-dev: pyproject.toml scripts/make-venv
	scripts/make-venv $(OLDEST_VENV) --editable '.[dev]' '$(OLDEST)'
	@touch $@

$(BENCH_VENV)/.installed: pyproject.toml scripts/make-venv
	scripts/make-venv $(BENCH_VENV) --editable '.[bench]' '$(SAME_DAGSTER)'
	@touch $@

$(ORIGINAL_VENV)/.installed: pyproject.toml scripts/make-venv
	scripts/make-venv $(ORIGINAL_VENV) $(ORIGINAL) $(PANDAS)
	@touch $@
