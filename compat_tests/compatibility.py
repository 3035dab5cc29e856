"""What was run with which releases: the rows of the tables of docs/reference/compatibility.md.

The releases are those that the tests pin, and each row names the test that runs with them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from compat_tests.checkout import ROOT
from legacy_tests import sdists
from legacy_tests.environments import Environment
from legacy_tests.sdists import Sdist

#: What the tests are run with: the newest Dagster whose libraries, such as this one, are out.
NEWEST_DAGSTER = "the newest that dagster-postgres is out for"

_ORIGINAL_SUITE = "legacy_tests/test_original_suite.py::test_every_test_of_the_original_passes"
_LIBRARY_SUITE = "legacy_tests/test_libraries.py::test_every_test_of_the_library_passes"
_CONTROL = "legacy_tests/test_libraries.py::test_all_that_passes_on_celery_passes"
_INSTALLERS = "compat_tests/facade/test_installers.py"


@dataclass(frozen=True)
class Row:
    """Something that was run."""

    #: The package or server, and its release.
    what: str
    release: str
    #: The release of Dagster, or what else it was run with.
    beside: str
    ran: str
    #: A file of tests, or ``file::function``, from the root of the checkout on.
    test: str

    def cells(self) -> tuple[str, ...]:
        """Return the cells of its line in a table."""
        return (f"`{self.what}`", self.release, self.beside, self.ran, f"`{self.test}`")


def oldest_dagster() -> str:
    """Return the oldest Dagster that is supported, as the Makefile installs it."""
    found = re.search(r"^OLDEST := dagster==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _suites(sdist: Sdist) -> list[Row]:
    """Return the rows about the published tests of a library on dagster-celery."""
    dagster = Environment(sdist.version, is_original=False).dagster
    return [
        Row(
            *(sdist.project, sdist.version, dagster),
            f"its own {sdist.tests} tests, unmodified",
            _LIBRARY_SUITE,
        ),
        Row(
            *(sdist.project, sdist.version, dagster),
            "the same on the original, with Celery 5.7.0: what passes there passes here",
            _CONTROL,
        ),
    ]


def _installed(sdist: Sdist) -> Row:
    return Row(
        *(sdist.project, sdist.version, Environment(sdist.version, is_original=False).dagster),
        "installed by uv beside the wheel that stands in for dagster-celery, and imported",
        f"{_INSTALLERS}::test_uv_installs_the_published_libraries_beside_ours",
    )


def libraries() -> list[Row]:
    """Return the rows about dagster-celery, the libraries on it, and Dagster itself."""
    newest, oldest = sdists.NEWEST, sdists.OLDEST
    rows = [
        Row(
            *("dagster-celery", newest.version, NEWEST_DAGSTER),
            f"its own {newest.tests} tests, unmodified, on RabbitMQ, Redis and PostgreSQL",
            _ORIGINAL_SUITE,
        ),
        Row(
            *("dagster-celery", oldest.version, NEWEST_DAGSTER),
            f"its own {oldest.tests} tests, unmodified, on RabbitMQ",
            _ORIGINAL_SUITE,
        ),
        Row(
            *("dagster-celery", f"{oldest.version} and {newest.version}", NEWEST_DAGSTER),
            "each of its public names is here, and can do what it does there",
            "compat_tests/facade/test_public_names.py::"
            "test_a_module_has_every_public_name_with_all_it_can_do",
        ),
    ]
    for each in (sdists.KUBERNETES, sdists.DOCKER, sdists.OLDEST_KUBERNETES, sdists.OLDEST_DOCKER):
        rows += [*_suites(each), _installed(each)]
    version = newest.version
    rows += [
        Row(
            *("dagster-celery-k8s", version, NEWEST_DAGSTER),
            "runs and steps as Jobs of what stands in for a cluster: fan-outs, termination, pods "
            "that fail, workers that leave or die",
            "compat_tests/facade/test_kubernetes_library.py",
        ),
        Row(
            *("dagster-celery-k8s", oldest.version, oldest_dagster()),
            "a run and a step as Jobs of what stands in for a cluster, and a pod that fails",
            "compat_tests/facade/test_kubernetes_library.py::"
            "test_a_pod_that_fails_fails_its_step_with_the_reason",
        ),
        Row(
            *("dagster-celery-docker", version, NEWEST_DAGSTER),
            "steps as containers of what stands in for an engine: fan-outs, failures, termination, "
            "workers that leave or die",
            "compat_tests/facade/test_docker_library.py",
        ),
        Row(
            *("dagster-celery-docker", oldest.version, oldest_dagster()),
            "steps as containers of what stands in for an engine",
            "compat_tests/facade/test_docker_library.py::test_each_step_is_a_container_with_a_name",
        ),
        Row(
            *("dagster-celery-k8s", version, NEWEST_DAGSTER),
            "the pod of a worker as Dagster's Helm chart has it: command, configuration, "
            "environment, mounts and probe, on the chart's Redis 6.0 and RabbitMQ 3.8, and its end",
            "compat_tests/facade/test_helm_chart.py",
        ),
        Row(
            *("dagster-celery-k8s, -docker", version, Environment(version, False).dagster),
            "installed by pip beside the wheel that stands in for dagster-celery, and imported",
            f"{_INSTALLERS}::test_pip_installs_the_published_libraries_beside_ours",
        ),
        Row(
            *("dagster-celery-k8s, -docker", version, Environment(version, False).dagster),
            "resolved by Poetry with that wheel",
            f"{_INSTALLERS}::test_poetry_resolves_the_published_libraries_with_the_stand_in",
        ),
        Row("dagster", NEWEST_DAGSTER, "-", "all tests", "compat_tests"),
        Row(
            *("dagster", oldest_dagster(), "-"),
            "the tests marked `oldest`: `make tests-oldest-all`",
            "compat_tests/executor/test_features.py",
        ),
    ]
    return rows


def servers() -> list[Row]:
    """Return the rows about brokers and backends."""
    contract = "compat_tests/contract"
    installed = "the one that `scripts/install-servers` installs"
    return [
        Row("embedded (SQLite)", "that of Python", "-", "all tests that take a broker", contract),
        Row("PostgreSQL", installed, "-", "all tests that take a broker", contract),
        Row(
            *("PostgreSQL", installed, "PgBouncer in transaction mode"),
            "the contract of brokers and backends",
            f"{contract}/test_broker.py",
        ),
        Row("Redis or Valkey", installed, "-", "all tests that take a broker", contract),
        Row("RabbitMQ", installed, "-", "all tests that take a broker", contract),
        Row(
            *("Redis, RabbitMQ", "6.0, 3.8: those of Dagster's Helm chart", "-"),
            "the contract of brokers and backends, and tasks on workers",
            f"{contract}/test_oldest_servers.py",
        ),
    ]


def table(rows: Sequence[Row], heads: Sequence[str]) -> str:
    """Return rows as a table.

    Args:
        rows: what is in it.
        heads: the head of each column.
    """
    lines = [tuple(heads), ("---",) * len(heads), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def libraries_table() -> str:
    """Return the table of packages."""
    return table(libraries(), ("package", "release", "Dagster", "what was run", "test"))


def servers_table() -> str:
    """Return the table of servers."""
    return table(servers(), ("server", "release", "through", "what was run", "test"))
