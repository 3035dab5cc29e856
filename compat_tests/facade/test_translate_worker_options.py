"""The options of ``celery worker``, held against Celery's own command and read by the engine's."""

from typing import Any

import click
import pytest
from celery.bin.worker import worker as celery_worker
from celery.utils.nodenames import default_nodename, host_format

from compat_tests.workers import options_of_start
from dagster_celery._translate.rows import Fate
from dagster_celery._translate.worker.arguments import translate_arguments
from dagster_celery._translate.worker.node_name import expand_node_name
from dagster_celery._translate.worker.option_rows import WORKER_OPTIONS
from dagster_taskiq.errors import ConfigError


def as_the_engine_reads(arguments: list[str]) -> dict[str, Any]:
    """Return what the engine's command makes of them, without what was not given."""
    params, defaults = options_of_start(arguments), options_of_start([])
    return {name: value for name, value in params.items() if value != defaults[name]}


# -- the list ----------------------------------------------------------------------------------


def test_every_option_of_celery_worker_has_a_row_and_is_typed_as_there() -> None:
    theirs = {each.name: (set(each.opts), each.is_flag) for each in celery_worker.params}
    ours = {each.name: (set(each.flags), each.is_flag) for each in WORKER_OPTIONS.values()}
    assert ours == theirs
    assert len(ours) == 33


@pytest.mark.parametrize("row", WORKER_OPTIONS.values(), ids=lambda row: row.name)
def test_each_row_has_an_explanation(row: Any) -> None:
    assert row.explanation.endswith(".")
    assert (row.translate is not None) == (row.fate is Fate.TRANSLATED)


def rows_with(fate: Fate) -> list[str]:
    return [name for name, row in WORKER_OPTIONS.items() if row.fate is fate]


@pytest.mark.parametrize("name", [*rows_with(Fate.NO_EFFECT), *rows_with(Fate.LOST)])
def test_what_has_no_effect_is_accepted_by_each_name_with_a_remark(name: str) -> None:
    for flag in WORKER_OPTIONS[name].flags:
        given = [flag] if WORKER_OPTIONS[name].is_flag else [flag, "1"]
        arguments, (remark,) = translate_arguments(given)
        assert arguments == []
        assert remark.subject == flag
        assert remark.is_loss == (name in rows_with(Fate.LOST))
        assert remark.text == f"{flag} has no effect here: {WORKER_OPTIONS[name].explanation}"


@pytest.mark.parametrize("name", rows_with(Fate.REFUSED))
def test_what_would_lose_something_is_refused_with_what_to_use(name: str) -> None:
    flag = WORKER_OPTIONS[name].flags[0]
    given = [flag] if WORKER_OPTIONS[name].is_flag else [flag, "1"]
    with pytest.raises(ConfigError, match=f"{flag} of celery worker cannot be used here"):
        translate_arguments(given)


# -- what is translated ------------------------------------------------------------------------

#: For each translated option: what may be typed, and what the engine's command then has.
CASES: dict[str, list[tuple[list[str], dict[str, Any]]]] = {
    "hostname": [
        (["-n", "left@here"], {"name": "left@here"}),
        (["--hostname=here"], {"name": "celery@here"}),
    ],
    "detach": [(["-D"], {"background": True}), (["--detach"], {"background": True})],
    "loglevel": [
        (["-l", "DEBUG"], {"loglevel": "debug"}),
        (["--loglevel=Warning"], {"loglevel": "warning"}),
        (["-lFATAL"], {"loglevel": "critical"}),
    ],
    "concurrency": [
        (["-c", "4"], {"concurrency": 4}),
        (["-c4"], {"concurrency": 4}),
        (["--concurrency=4"], {"concurrency": 4}),
        (["-c", "2", "-c", "4"], {"concurrency": 4}),
        (["-c", "auto"], {}),
        (["-c", "0"], {}),
    ],
    "pool": [
        (["-P", "solo"], {"concurrency": 1}),
        (["--pool=solo", "-c", "8"], {"concurrency": 1}),
        (["-P", "threads", "-c", "8"], {"concurrency": 8}),
        (["-P", "prefork"], {}),
    ],
    "time_limit": [(["--time-limit", "90"], {"time_limit": 90.0})],
    "soft_time_limit": [(["--soft-time-limit=1.5"], {"soft_time_limit": 1.5})],
    "max_tasks_per_child": [(["--max-tasks-per-child", "7"], {"max_tasks_per_child": 7})],
    "max_memory_per_child": [
        (["--max-memory-per-child=12000"], {"max_memory_per_child": 12000}),
        (["--max-memory-per-child=0"], {}),
    ],
    "queues": [
        (["-Q", "a"], {"queues": ("a",)}),
        (["--queues=a,b"], {"queues": ("a,b",)}),
        (["-Q", "a", "-Q", "b,a"], {"queues": ("a,b",)}),
    ],
    "exclude_queues": [(["-Q", "a,b,c", "-X", "b"], {"queues": ("a,c",)})],
    "include": [(["-I", "one,two", "--include", "three"], {"include": ("one,two,three",)})],
    "autoscale": [
        (["--autoscale=10,3"], {"concurrency": 10}),
        (["--autoscale", "3,10"], {"concurrency": 10}),
        (["--autoscale=4", "-c", "2"], {"concurrency": 4}),
    ],
}


def test_every_translated_option_has_a_case() -> None:
    assert set(CASES) == set(rows_with(Fate.TRANSLATED))


@pytest.mark.parametrize(
    ("given", "expected"), [case for cases in CASES.values() for case in cases], ids=str
)
def test_a_translated_option_means_to_the_engine_what_it_meant(
    given: list[str], expected: dict[str, Any]
) -> None:
    arguments, remarks = translate_arguments(given)
    assert as_the_engine_reads(arguments) == expected
    assert remarks


def test_the_start_command_of_a_helm_chart_is_read_as_a_whole() -> None:
    arguments, remarks = translate_arguments(["-E", "--concurrency", "16", "-Ofair"])
    assert arguments == ["--concurrency", "16"]
    assert {each.subject: each.text.split(":")[0] for each in remarks} == {
        "-E": "-E has no effect here",
        "--concurrency": ('--concurrency is "--concurrency 16" of dagster-taskiq worker start.'),
        "--optimization": "--optimization has no effect here",
    }


def test_a_pool_of_threads_is_one_of_processes_with_a_remark() -> None:
    _, (remark,) = translate_arguments(["-P", "gevent"])
    assert "-P has no effect here: tasks run in child processes" in remark.text


def test_nothing_becomes_nothing() -> None:
    assert translate_arguments([]) == ([], ())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["--concurency", "4"], 'Did you mean "--concurrency"'),
        (["-A", "app"], "before the --"),
        (["-b", "redis://"], "file of -y"),
        (["stray"], "unexpected extra argument"),
        (["-c"], "requires an argument"),
        (["-c", "many"], "-c of celery worker must be a whole number, 0 or more, but it is 'many'"),
        (["--time-limit=-1"], "number of seconds"),
        (["-l", "loud"], "must be one of DEBUG"),
        (["-P", "cores"], "must be one of prefork"),
        (["--autoscale=1,2,3"], "MAX,MIN"),
        (["--autoscale=0"], "MAX,MIN"),
        (["-X", "a"], "needs -Q"),
        (["-Q", "a", "-X", "a"], "must leave a queue"),
        (["-n", "w@%z"], "%z in it"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused_with_what_to_do(given: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        translate_arguments(given)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["w", "w@%h", "w@host", "%h", "@%h", "w@", "", "w%i@%h", "w%I@%h", "%n.%d@%n", "100%%@%h"],
)
def test_a_node_name_is_expanded_as_celery_does(name: str) -> None:
    assert expand_node_name(name) == host_format(default_nodename(name))


# -- the environment ---------------------------------------------------------------------------


def test_an_option_may_be_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("CONCURRENCY", "5"),
        ("QUEUES", "a,b"),
        ("TASK_EVENTS", "1"),
        ("MAX_TASKS_PER_CHILD", ""),
        ("INCLUDE", "given.otherwise"),
        ("TIME_LIMIT", "60"),
    ):
        monkeypatch.setenv(f"CELERY_WORKER_{name}", value)

    arguments, remarks = translate_arguments(["--time-limit", "30"], ["include"])

    read = {"concurrency": 5, "queues": ("a,b",), "time_limit": 30.0}
    assert as_the_engine_reads(arguments) == read
    subjects = {"CELERY_WORKER_CONCURRENCY", "CELERY_WORKER_QUEUES", "CELERY_WORKER_TASK_EVENTS"}
    assert {each.subject for each in remarks} == {*subjects, "--time-limit"}
    assert translate_arguments([]) == ([], ())

    monkeypatch.setenv("CELERY_WORKER_CONCURRENCY", "many")
    with pytest.raises(ConfigError, match="CELERY_WORKER_CONCURRENCY of celery worker must be"):
        translate_arguments([], [])


def test_the_variables_are_those_that_celery_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in celery_worker.params:
        context = click.Context(celery_worker, auto_envvar_prefix="CELERY_WORKER")
        monkeypatch.setenv(f"CELERY_WORKER_{option.name.upper()}", "here")
        assert option.resolve_envvar_value(context) == "here"
