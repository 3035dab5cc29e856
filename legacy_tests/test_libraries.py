"""The tests of the libraries on dagster-celery pass, as they are published.

Those of dagster-celery-k8s and dagster-celery-docker. What they need that is not published, and a
Docker engine, is in ``beside``. The control is the original, with Celery, in an environment with
the same releases: what passes there passes here.
"""

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

import dagster_celery
from compat_tests.checkout import ROOT
from compat_tests.proxy import Proxy
from compat_tests.servers import own_postgres
from legacy_tests import original_suite
from legacy_tests.conftest import REMARK
from legacy_tests.environments import Environment
from legacy_tests.original_suite import HERE, Seen, Side
from legacy_tests.sdists import DOCKER, KUBERNETES, OLDEST_DOCKER, OLDEST_KUBERNETES, Sdist

# The first test of each waits for all of them, and for an environment that may have to be made.
pytestmark = pytest.mark.timeout(900)

_test_all = pytest.mark.test_all

LIBRARIES = (
    KUBERNETES,
    DOCKER,
    pytest.param(OLDEST_KUBERNETES, marks=_test_all("the same tests of a later release")),
    pytest.param(OLDEST_DOCKER, marks=_test_all("the same tests of a later release")),
)

OURS = Path(dagster_celery.__file__).parent

#: Where the tests look for a PostgreSQL, and for what in it.
POSTGRES_PORT = 5432
DATABASE = ("CREATE ROLE test LOGIN PASSWORD 'test'", "CREATE DATABASE test OWNER test")


def postgres_at_its_port(server_port: int) -> Proxy:
    """Have a server answer at the port that the tests expect, on some address of this machine."""
    for number in range(1, 50):
        try:
            return Proxy(server_port, at=(f"127.0.0.{number}", POSTGRES_PORT))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise
    raise RuntimeError(f"Port {POSTGRES_PORT} is taken on each address of this machine.")


@pytest.fixture(scope="module")
def postgres_address() -> Iterator[str]:
    with own_postgres() as server:
        connection = psycopg2.connect(server.url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in DATABASE:
                cursor.execute(statement)
        connection.close()
        proxy = postgres_at_its_port(server.port)
        try:
            yield proxy.address
        finally:
            proxy.end()


def ours(sdist: Sdist) -> Side:
    """This project's, with Celery beside it: one of the tests imports it."""
    python = Environment(sdist.version, is_original=False).python()
    return Side(python, (HERE / "beside", ROOT))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sdist], Side]:
    """The original, on Celery, in an environment of its own, without this project."""
    place = tmp_path_factory.mktemp("original")
    # For what stands in for Docker, without the packages beside it.
    (place / "compat_tests").symlink_to(ROOT / "compat_tests")

    def find(sdist: Sdist) -> Side:
        python = Environment(sdist.version, is_original=True).python()
        return Side(python, (HERE / "beside", place))

    return find


def run(sdist: Sdist, side: Side, address: str) -> Seen:
    # What stands in for Docker starts an interpreter of the side for each container.
    variables = {"POSTGRES_ADDRESS": address, "DAGSTER_TASKIQ_TEST_START": "exec"}
    plugins = ["docker_host"] if sdist.project == DOCKER.project else []
    return original_suite.run(sdist, variables, side, plugins)


@pytest.fixture(scope="module", params=LIBRARIES, ids=lambda sdist: sdist.stem)
def sdist(request: pytest.FixtureRequest) -> Sdist:
    found: Sdist = request.param
    return found


@pytest.fixture(scope="module")
def ran(sdist: Sdist, postgres_address: str) -> Seen:
    return run(sdist, ours(sdist), postgres_address)


def told(seen: Seen) -> str:
    counts = sorted(Counter(seen.outcomes.values()).items())
    return (
        f"{', '.join(f'{number} {outcome}' for outcome, number in counts)}, in {seen.seconds:.0f} s"
    )


def test_every_test_of_the_library_passes(
    sdist: Sdist, ran: Seen, record_property: Callable[[str, object], None]
) -> None:
    record_property(REMARK, f"{sdist.stem}: {told(ran)}")
    if Counter(ran.outcomes.values()) != {"passed": sdist.tests} or ran.exit_code != 0:
        pytest.fail(f"{sdist.stem}: {told(ran)}\n\n{ran.output}", pytrace=False)


def test_what_it_runs_on_is_ours(ran: Seen) -> None:
    found = {name: path for name, path in ran.modules.items() if name.startswith("dagster_celery")}
    assert "dagster_celery.core_execution_loop" in found
    elsewhere = {name for name, path in found.items() if not Path(path).is_relative_to(OURS)}
    assert elsewhere == set()


@_test_all("it has the original and Celery fetched, and says what passes there")
def test_all_that_passes_on_celery_passes(
    sdist: Sdist,
    ran: Seen,
    original: Callable[[Sdist], Side],
    postgres_address: str,
    record_property: Callable[[str, object], None],
) -> None:
    control = run(sdist, original(sdist), postgres_address)
    record_property(REMARK, f"{sdist.stem} on the original, with Celery: {told(control)}")
    assert not any(Path(path).is_relative_to(OURS) for path in control.modules.values())
    assert control.collected == ran.collected
    passed = {name for name, outcome in control.outcomes.items() if outcome == "passed"}
    assert passed, control.output
    missing = {name: ran.outcomes[name] for name in passed if ran.outcomes[name] != "passed"}
    assert missing == {}, ran.output
