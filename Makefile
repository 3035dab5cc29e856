# What people and CI run. Everything happens in virtual environments beside this file, which are
# made anew when pyproject.toml changes.

VENV := .venv
# The oldest supported Dagster, with the code of today.
OLDEST_VENV := .venv-oldest
OLDEST := dagster==1.13.0
# The two sides of the benchmarks. dagster-celery asks for one Dagster alone, which ours gets too.
BENCH_VENV := .venv-bench
ORIGINAL_VENV := .venv-original
TASKIQ_REDIS_VENV := .venv-taskiq-redis
ORIGINAL := 'dagster-celery[redis]==0.29.27' 'celery==5.7.0' dagster-postgres==0.29.27
SAME_DAGSTER := dagster==1.13.27
# The work of one of their jobs: as `bench` in pyproject.toml has it.
PANDAS := 'pandas>=2,<4'
# Tests run side by side; those that share workers and servers stay together, the longest first
# (compat_tests/side_by_side.py). Some wait while others compute, so there are more than cores.
SPREAD := -n 4
# The hundreds of processes that tests start read what one of them has compiled.
export PYTHONDONTWRITEBYTECODE :=

# Where what is published goes: make dist DIST=/tmp/dist
DIST := dist

.PHONY: help demo demo-ui test test-all lint docs docs-links tests tests-all legacy tests-oldest \
	tests-started tests-oldest-all servers promises pictures soak bench bench-own bench-monitor \
	bench-sizes dist clean

help:
	@echo "make demo     two example projects, run on workers on this machine: one of our own, and"
	@echo "              one as users of dagster-celery have it"
	@echo "make demo-ui  the same in Dagster's UI, with the run launcher, until Ctrl-C"
	@echo "make test     what is checked on every push, servers included: each promise on one broker,"
	@echo "              the contract on all of them"
	@echo "make test-all the same on every broker, and dagster-celery's own tests on each server"
	@echo "make lint     style and types alone"
	@echo "make docs     the site of docs/, into build/docs/; make docs-links also asks other sites"
	@echo "make legacy   dagster-celery's own tests alone, and those of libraries on it, unmodified"
	@echo "make promises which test holds which promise, on which broker, into compat_tests/PROMISES.md"
	@echo "make pictures of the monitor's page, for docs/; a quarter of an hour"
	@echo "make soak     half an hour of kills, cancels and cuts, and what came of it"
	@echo "make bench    how fast it is beside dagster-celery with Celery, which it fetches; it"
	@echo "              takes more than an hour"
	@echo "make bench-own  what a user's own task costs, beside Celery's prefork pool and the"
	@echo "              ListQueueBroker of taskiq-redis; some minutes"
	@echo "make bench-monitor  what a monitor costs, and the runs that it shows; some minutes"
	@echo "make bench-sizes  memory of a worker, connections to PostgreSQL, what waiting steps take"
	@echo "make dist     what is published: the wheel, the sources, and a wheel that stands in for"
	@echo "              each release of dagster-celery"
	@echo "make clean    remove what the others have made"

# On another broker: make demo ARGS='--broker postgresql://user:password@host/database'
demo: $(VENV)/.installed
	$(VENV)/bin/dagster-taskiq demo $(ARGS)
	@echo
	@echo "Part two: a project as users of dagster-celery have it, not a line of it changed"
	$(VENV)/bin/python -m examples.demo

# On another port, or another broker: make demo-ui ARGS='--port 3001'
demo-ui: $(VENV)/.installed-ui
	$(VENV)/bin/dagster-taskiq demo --ui $(ARGS)

# compat_tests/tiers.py decides what is run on every push.
test: servers lint docs tests tests-oldest

test-all: servers lint docs tests-all tests-started legacy tests-oldest-all

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Whatever is wrong with a page, a docstring or a link within the site is an error.
SPHINX = $(VENV)/bin/python -m sphinx -E -n -W --keep-going -q -j auto

docs: $(VENV)/.installed-dev
	$(SPHINX) -b html docs build/docs
	@echo "The site is build/docs/index.html"

# Whether the links to other sites lead somewhere, which needs the network.
docs-links: $(VENV)/.installed-dev
	$(SPHINX) -b linkcheck docs build/docs-links

tests: servers $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest $(SPREAD) -m push compat_tests legacy_tests $(ARGS)

# One test, or some, on every broker: make tests-all ARGS='-k redis -x'
tests-all: servers $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest $(SPREAD) $(ARGS)

# What workers promise, on workers that are started by their command line and not forked.
tests-started: servers $(VENV)/.installed-dev
	DAGSTER_TASKIQ_TEST_START=exec $(VENV)/bin/python -m pytest $(SPREAD) \
	    compat_tests/contract/test_worker.py compat_tests/facade/test_cli.py $(ARGS)

# One suite after the other, with nothing else at the same time: they have deadlines of their own,
# which three of them together on a small machine have missed. All use the RabbitMQ on this machine's
# port 5672, or start one there.
legacy: servers $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest legacy_tests $(ARGS)

# pytest fails when it finds no test with this marker, so this can not fall silent.
tests-oldest: servers $(OLDEST_VENV)/.installed-dev
	$(OLDEST_VENV)/bin/python -m pytest $(SPREAD) -m push_oldest $(ARGS)

tests-oldest-all: servers $(OLDEST_VENV)/.installed-dev
	$(OLDEST_VENV)/bin/python -m pytest $(SPREAD) -m oldest $(ARGS)

servers:
	scripts/install-servers

# Which test holds which promise, on which broker: compat_tests/PROMISES.md.
promises: $(VENV)/.installed-dev
	$(VENV)/bin/python -m compat_tests.promises

# docs/images/monitor-*.png. In less time, with an emptier timeline: make pictures ARGS='--minutes 2'
pictures: servers $(VENV)/.installed-dev
	$(VENV)/bin/python -m compat_tests.monitor.pictures $(ARGS)

# Half an hour on one broker: make soak ARGS='--broker redis --minutes 5 --seed 7'
soak: servers $(VENV)/.installed-dev
	$(VENV)/bin/python -m compat_tests.faults.soak $(ARGS)

# Some of it, in a few minutes: make bench ARGS='--only chain --rounds 1 --places redis'
bench: servers $(BENCH_VENV)/.installed $(ORIGINAL_VENV)/.installed
	$(BENCH_VENV)/bin/python -m benchmarks.run $(ARGS)

# More of them: make bench-own ARGS='--tasks 10000 --rounds 1 --places redis'
bench-own: servers $(BENCH_VENV)/.installed $(ORIGINAL_VENV)/.installed \
	$(TASKIQ_REDIS_VENV)/.installed
	$(BENCH_VENV)/bin/python -m benchmarks.own_tasks $(ARGS)

# In one place, in a minute: make bench-monitor ARGS='--rounds 2 --places redis'
bench-monitor: servers $(BENCH_VENV)/.installed
	$(BENCH_VENV)/bin/python -m benchmarks.monitor $(ARGS)

# Some of it: make bench-sizes ARGS='--only memory --slots 8'
bench-sizes: servers $(VENV)/.installed-dev
	$(VENV)/bin/python -m benchmarks.sizes $(ARGS)

# The wheel is built from the sources that are packed before it.
dist: $(VENV)/.installed-dev
	rm -rf $(DIST)
	$(VENV)/bin/uv build --quiet --no-build-isolation --python $(VENV)/bin/python --out-dir $(DIST)
	rm -f $(DIST)/.gitignore
	$(VENV)/bin/twine check --strict $(DIST)/*
	$(VENV)/bin/dagster-taskiq stand-in --all -o $(DIST)

clean:
	rm -rf $(VENV) $(OLDEST_VENV) $(BENCH_VENV) $(ORIGINAL_VENV) $(TASKIQ_REDIS_VENV)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .old-servers*

# The stamps are younger than what they were made from, and are not there after a failure.

$(VENV)/.installed: pyproject.toml scripts/make-venv
	scripts/make-venv $(VENV) --editable '.[postgres]'
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

$(TASKIQ_REDIS_VENV)/.installed: pyproject.toml scripts/make-venv
	scripts/make-venv $(TASKIQ_REDIS_VENV) 'taskiq-redis>=1.2.4,<2' 'uvloop>=0.21,<1'
	@touch $@
