"""Errors of tasks as JSON, and what comes back of it."""

import json
import sys
from asyncio import CancelledError
from typing import Any

import pytest
from taskiq import TaskiqMessage, TaskiqResult
from taskiq.exceptions import SecurityError, TaskiqResultTimeoutError

from dagster_taskiq.errors import ChildDiedError, TaskFailedError
from dagster_taskiq.transport.backend import LONGEST_REASON, end_of
from dagster_taskiq.transport.results import MOST_CAUSES, as_json, result_from_json
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.worker.running_task import describe_task


class Plain(ValueError):
    pass


class WithText(Exception):
    def __init__(self, code: int) -> None:
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Outer:
    class Inner(KeyError, AttributeError):
        def __init__(self, first: object, second: object) -> None:
            super().__init__(first)
            self.second = second


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def result_of(error: BaseException) -> TaskiqResult[Any]:
    return TaskiqResult(is_err=True, return_value=None, execution_time=0.1, error=error)


def sent(error: BaseException) -> BaseException:
    found = result_from_json(as_json(result_of(error))[1]).error
    assert found is not None
    return found


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such number", 7),
        ValueError(),
        KeyError("key"),
        FileNotFoundError(2, "No such file", "name"),
        Plain("text"),
        WithText(4),
        Outer.Inner("first", object()),
    ],
    ids=repr,
)
def test_an_error_whose_class_is_loaded_comes_back_as_it_was(error: BaseException) -> None:
    found = sent(error)
    assert type(found) is type(error)
    assert (str(found), found.args) == (str(error), error.args)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (SystemExit(3), ChildDiedError, "The task raised SystemExit: 3"),
        (KeyboardInterrupt(), ChildDiedError, "The task raised KeyboardInterrupt"),
        (GeneratorExit(), TaskFailedError, "The task raised GeneratorExit"),
        (CancelledError("by itself"), TaskFailedError, "The task raised CancelledError: by itself"),
    ],
    ids=repr,
)
def test_an_error_that_would_end_the_waiting_process_is_a_failure(
    error: BaseException, kind: type[Exception], text: str
) -> None:
    found = sent(error)
    assert (type(found), str(found)) == (kind, text)
    assert (type(found.__cause__), str(found.__cause__)) == (type(error), str(error))
    assert type(sent(found)) is kind and str(sent(found)) == text


class Unsaid(OSError):
    def __init__(self, lock: object) -> None:
        super().__init__("busy")
        self.lock = lock

    def __str__(self) -> str:
        return f"busy: {self.lock}"


def test_an_error_keeps_its_text_whatever_that_is_made_of() -> None:
    error = Unsaid(object())
    found = sent(error)
    assert isinstance(found, Unsaid)
    assert type(found).__name__ == "Unsaid"
    assert (str(found), found.args) == (str(error), error.args)


def test_its_attributes_come_back_and_what_is_not_json_as_its_description() -> None:
    error = WithText(4)
    lock, inner = object(), Plain("inner")
    vars(error).update(more={"a": [1]}, lock=lock, inner=inner)
    found = vars(sent(error))
    assert isinstance(found["inner"], Plain)
    assert str(found.pop("inner")) == "inner"
    assert found == {"code": 4, "more": {"a": [1]}, "lock": repr(lock)}


def test_taskiqs_own_errors_come_back_with_their_fields() -> None:
    found = sent(TaskiqResultTimeoutError(timeout=3.0))
    assert isinstance(found, TaskiqResultTimeoutError)
    assert (found.timeout, repr(found)) == (3.0, repr(TaskiqResultTimeoutError(timeout=3.0)))


class NoArguments(Exception):
    args = property(lambda _: 1 / 0)


def test_an_error_that_fails_itself_is_stored_all_the_same() -> None:
    for error in (NoText("argument"), NoArguments("argument")):
        result = result_of(error)
        assert type(sent(error)) is type(error)
        assert end_of(result)[0] is TaskState.FAILURE


def test_the_record_of_a_users_own_task_has_no_endless_text() -> None:
    error = ValueError("x" * 1_000_000)
    assert len(end_of(result_of(error))[1]) == LONGEST_REASON
    assert len(str(sent(error))) == 1_000_000


def test_an_error_that_cannot_be_made_again_keeps_name_and_text() -> None:
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")
    found = sent(error)
    assert (type(found).__name__, str(found)) == ("UnicodeDecodeError", str(error))
    assert type(sent(NoText("argument"))).__name__ == "NoText"


def test_a_process_without_the_class_passes_an_error_on_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the parent of a worker, which has none of its children's modules."""
    error = WithText(4)
    with monkeypatch.context() as without:
        without.delitem(sys.modules, __name__)
        passed_on = sent(error)
        assert type(passed_on) is not WithText
        assert str(passed_on) == "code 4"
    found = sent(passed_on)
    assert (type(found), str(found)) == (WithText, "code 4")


def test_causes_and_contexts_come_back_as_far_as_they_are_kept() -> None:
    error = first = ValueError(0)
    for number in range(1, 50):
        error.__cause__ = ValueError(number)
        error = error.__cause__
    error.__cause__ = first  # and so on
    found: BaseException | None = sent(first)
    numbers = []
    while found is not None:
        numbers.append(found.args[0])
        found = found.__cause__
    assert numbers == list(range(MOST_CAUSES))
    try:
        try:
            raise LookupError("inner")
        except LookupError:
            raise ValueError("outer")  # noqa: B904 - for its context
    except ValueError as outer:
        assert isinstance(sent(outer).__context__, LookupError)


def test_what_taskiq_itself_has_written_and_reads_is_understood() -> None:
    theirs = result_of(Plain("text")).model_dump_json()
    found = result_from_json(theirs).error
    assert isinstance(found, Plain)
    assert found.args == ("text",)
    ours = as_json(result_of(Plain("text")))[1]
    assert isinstance(TaskiqResult[Any].model_validate_json(ours).error, Plain)


def test_a_module_is_not_asked_for_a_name_that_it_would_have_to_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sys.modules[__name__], "__getattr__", asked.append, raising=False)
    plain = json.loads(as_json(result_of(Plain("text")))[1])
    plain["error"]["exc_type"] = "Lazy"
    found = result_from_json(json.dumps(plain)).error
    assert type(found).__name__ == "Lazy"
    assert asked == []


@pytest.mark.parametrize("name", ["eval", "int", "print.__self__", "list.append"])
def test_what_is_no_exception_is_not_called(name: str) -> None:
    plain = json.loads(as_json(result_of(Plain("text")))[1])
    plain["error"].update(exc_module="builtins", exc_type=name)
    try:
        found = result_from_json(json.dumps(plain)).error
    except SecurityError:
        return
    assert issubclass(type(found), Exception)
    assert type(found).__module__ == "builtins"


def test_a_worker_reports_the_last_task_of_a_pipeline_with_a_step_of_it() -> None:
    def last(**labels: object) -> str:
        message = TaskiqMessage(task_id="a", task_name="t", labels=labels, args=[], kwargs={})
        return describe_task(message).last

    assert last(_pipe_data=b'[{"task_id": "a"}, {"task_id": "b"}]') == "b"
    assert [last(_pipe_data=each) for each in (b"", "[]", b"{}", 3, None)] == [""] * 5
    assert last() == ""
