"""What runs on every push, and what only where everything is run."""

import pytest

pytest_plugins = ["pytester"]

_TESTS = """
import pytest

on_each = pytest.mark.parametrize("kind", ["embedded", "redis", "rabbitmq", "memory", "sqs_redis"])


def test_of_no_broker():
    pass


@on_each
@pytest.mark.parametrize("size", [1, 2])
def test_on_one(kind, size):
    pass


@on_each
@pytest.mark.each_broker
def test_on_each(kind):
    pass


@pytest.mark.parametrize("kind", ["memory"])
def test_in_memory(kind):
    pass


@on_each
@pytest.mark.test_all("another test holds its promise")
def test_on_none(kind):
    pass


@pytest.mark.parametrize("scheme", ["redis", "memory"])
def test_of_words(scheme):
    pass


@on_each
@pytest.mark.oldest
def test_on_oldest(kind):
    pass
"""


@pytest.fixture
def selected(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> list[str]:
    """The tests of a project that are selected by a marker."""
    pytester.makeconftest('pytest_plugins = ["compat_tests.tiers"]')
    directory, marker = request.param
    package = pytester.mkpydir(directory)
    (package / "test_it.py").write_text(_TESTS)
    run = pytester.runpytest("--collect-only", "-q", "-m", marker)
    return [line.partition("::")[2] for line in run.outlines if "::" in line]


@pytest.mark.parametrize("selected", [("executor", "push")], indirect=True)
def test_a_push_runs_each_test_on_one_broker_that_has_workers(selected: list[str]) -> None:
    (one, *others) = {each for each in selected if "test_on_one" in each and "[1-" in each}
    assert others == []
    assert one != "test_on_one[1-memory]"
    assert one.replace("[1-", "[2-") in selected
    assert [each for each in selected if "test_on_one" not in each and "oldest" not in each] == [
        "test_of_no_broker",
        *(f"test_on_each[{kind}]" for kind in ("embedded", "redis", "rabbitmq", "memory")),
        "test_in_memory[memory]",
        *(f"test_of_words[{scheme}]" for scheme in ("redis", "memory")),
    ]


@pytest.mark.parametrize("selected", [("contract", "push")], indirect=True)
def test_a_push_runs_the_contract_on_each_broker(selected: list[str]) -> None:
    assert len([each for each in selected if "test_on_one" in each]) == 2 * 4
    assert not any("test_on_none" in each for each in selected)


@pytest.mark.parametrize("selected", [("executor", "push_oldest")], indirect=True)
def test_a_push_runs_the_oldest_dagster_on_the_embedded_broker(selected: list[str]) -> None:
    assert selected == ["test_on_oldest[embedded]"]
