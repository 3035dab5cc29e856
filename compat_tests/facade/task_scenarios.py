"""What Celery's users do with tasks, and what comes of it; the same on Celery and here.

Run as a program, it reports all of it as JSON; the worker is there already.
"""

import json
import pickle
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from compat_tests.facade import task_project as project
from compat_tests.facade.task_project import add, chain, chord, group

#: How long to wait for each result, in seconds.
TIMEOUT = 30


def get(result: Any) -> Any:
    return result.get(timeout=TIMEOUT)


def error_of(result: Any) -> list[Any]:
    """Return the kind and the text of the error that a result raises, and its state."""
    try:
        value = get(result)
    except Exception as error:
        return [type(error).__name__, str(error), result.state]
    return ["no error", value]


def notes(path: Path, count: int) -> list[str]:
    """Return the lines of a file, when there are so many; those that come later are seen too."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        found = path.read_text().splitlines() if path.exists() else []
        if len(found) >= count:
            return found
        time.sleep(0.05)
    return found


def a_retry_that_helps(path: Path) -> Any:
    # Celery calls a hook after the task was sent again.
    return [get(project.flaky.delay(str(path), 1)), sorted(notes(path, 7))]


def a_retry_too_often(path: Path) -> Any:
    return [error_of(project.flaky.delay(str(path), 9)), sorted(notes(path, 10))]


def a_retry_without_an_error(path: Path) -> Any:
    kind, text, state = error_of(project.never_good.delay(str(path)))
    return [kind, text.partition("[")[0], state, notes(path, 2)]


def a_retry_with_other_arguments(path: Path) -> Any:
    return get(project.with_other_arguments.delay(str(path), 3, other=1))


def an_error_that_is_retried(path: Path) -> Any:
    return [get(project.auto.delay(str(path), "index", 2)), sorted(notes(path, 11))]


def an_error_that_is_retried_too_often(path: Path) -> Any:
    return [error_of(project.auto.delay(str(path), "index", 9)), sorted(notes(path, 10))]


def an_error_that_is_not_retried(path: Path) -> Any:
    return [error_of(project.auto.delay(str(path), "key", 9)), notes(path, 4)]


def a_backoff(path: Path) -> Any:
    return get(project.backing_off.delay(time.time()))


def a_state_of_its_own(path: Path) -> Any:
    result = project.reporting.delay(str(path))
    deadline = time.monotonic() + TIMEOUT
    while not Path(f"{path}.reported").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    seen = [result.state, result.info, result.ready()]
    path.touch()
    return [*seen, get(result), result.state, result.info]


def an_ignored_task(path: Path) -> Any:
    result = project.ignored.delay()
    deadline = time.monotonic() + TIMEOUT
    while result.state != "HALF" and time.monotonic() < deadline:
        time.sleep(0.02)
    return [result.state, result.info]


def a_rejected_task(path: Path) -> Any:
    return [get(project.rejected_once.delay(str(path))), notes(path, 2)]


def a_soft_time_limit(path: Path) -> Any:
    return [get(project.too_slow.delay(str(path))), notes(path, 1)]


def a_soft_time_limit_that_is_not_caught(path: Path) -> Any:
    result = project.too_slow_and_careless.delay(str(path))
    try:
        get(result)
    except project.SoftTimeLimitExceeded:
        kind = "SoftTimeLimitExceeded"
    return [kind, result.state, [each.partition("(")[0] for each in notes(path, 3)]]


def a_result_that_is_ignored(path: Path) -> Any:
    return get(project.without_result.delay())


def a_request(path: Path) -> Any:
    when = datetime.now(timezone.utc)
    result = project.about.apply_async(
        (1,),
        {"b": 2},
        headers={"mine": "yes"},
        eta=when,
        expires=when + timedelta(seconds=60),
        time_limit=50,
        soft_time_limit=40,
        link=[project.same.s()],
        link_error=project.on_error_one.s(str(path)),
    )
    return get(result)


def a_request_in_a_chain(path: Path) -> Any:
    return get(chain(add.s(1, 1), project.about.s(), project.same.s()).apply_async())


def a_task_that_is_replaced(path: Path) -> Any:
    result = project.replaced.delay(1)
    return [get(result), result.state]


def a_task_that_is_replaced_by_several(path: Path) -> Any:
    kinds = ("chain", "group", "chord", "chain of a group", "another")
    results = {each: project.replaced_by.delay(each) for each in kinds}
    return {each: [get(result), result.state] for each, result in results.items()}


def a_replaced_task_in_others(path: Path) -> Any:
    by = project.replaced_by
    linked = by.si("chain").set(link=project.write.s(str(path)))
    return [
        get(chain(add.s(1, 1), by.si("chain"), add.s(100)).apply_async()),
        get(chord([by.si("chain"), by.si("chord"), add.s(1, 1)])(project.total.s())),
        get(group(by.si("group"), add.s(1, 1)).apply_async()),
        get(linked.apply_async()),
        notes(path, 1),
    ]


def a_replaced_task_that_fails(path: Path) -> Any:
    by, errback = project.replaced_by, project.on_error_one.s(str(path))
    alone = by.apply_async(("chain that fails",), link_error=errback)
    whole = chain(by.si("chain that fails"), add.s(1)).apply_async()
    by_chord = by.delay("chord that fails")
    return [
        error_of(alone),
        error_of(project.app.AsyncResult(whole.id)),
        [type(by_chord.get(timeout=TIMEOUT, propagate=False)).__name__, by_chord.state],
        notes(path, 1),
    ]


def a_state_that_is_an_end(path: Path) -> Any:
    described = {"exc_type": "KeyError", "exc_message": ["no"], "exc_module": "builtins"}
    unknown = {"exc_type": "Unknown", "exc_message": "no"}
    return [
        error_of(project.ending.delay("FAILURE", described)),
        error_of(project.ending.delay("FAILURE", unknown)),
        error_of(project.ending.delay("FAILURE", "no", is_error=True)),
        get(project.ending.delay("SUCCESS", {"a": 1})),
    ]


def a_result_as_plain_data(path: Path) -> Any:
    one, both = chain(add.s(1, 1), add.s(2)).apply_async(), group(add.s(1, 1), add.s(2, 2)).delay()
    again = project.result_from_tuple(json.loads(json.dumps(one.as_tuple())), app=project.app)
    members = project.result_from_tuple(json.loads(json.dumps(both.as_tuple())), app=project.app)
    copied = pickle.loads(pickle.dumps(one))
    return [
        get(again),
        again.parent.id == one.parent.id,
        len(again.as_list()),
        get(copied),
        get(members),
    ]


def a_task_that_is_a_class(path: Path) -> Any:
    return [get(project.counting.delay(1)), get(project.app.send_task("class-based", (2,)))]


def a_class_that_wraps_the_call(path: Path) -> Any:
    return get(project.wrapped.delay(3))


def wrong_arguments(path: Path) -> Any:
    try:
        add.delay(1, 2, 3)
    except TypeError:
        return "TypeError"
    return "sent"


def a_link(path: Path) -> Any:
    result = add.apply_async((1, 2), link=project.write.s(str(path)))
    return [get(result), notes(path, 1)]


def an_immutable_link(path: Path) -> Any:
    result = add.apply_async((1, 2), link=project.write.si("instead", str(path)))
    return [get(result), notes(path, 1)]


def several_links(path: Path) -> Any:
    task = add.s(1, 2)
    task.link(project.write.s(str(path)))
    task.link(add.s(5) | project.write.s(str(path)))
    return [get(task.apply_async()), sorted(notes(path, 2))]


def an_errback_of_three(path: Path) -> Any:
    result = project.fail.apply_async(("bad",), link_error=project.on_error_three.s(str(path)))
    return [error_of(result), notes(path, 1)]


def an_errback_of_one(path: Path) -> Any:
    result = project.fail.apply_async(("bad",), link_error=project.on_error_one.s(str(path)))
    return [error_of(result), notes(path, 1)]


def a_chain(path: Path) -> Any:
    result = chain(add.s(2, 2), add.s(4), add.s(8)).apply_async()
    return [get(result), get(result.parent), get(result.parent.parent)]


def a_chain_by_bars(path: Path) -> Any:
    whole = add.s(1, 1) | add.s(10) | project.same.si("last")
    return [get(whole.delay()), get(add.s(2).delay(3))]


def a_chain_with_arguments(path: Path) -> Any:
    return get(chain(add.s(1), add.s(2)).apply_async((10,)))


def a_chain_that_fails(path: Path) -> Any:
    whole = chain(add.s(1, 1), project.fail.si("middle"), project.write.si("never", str(path)))
    result = whole.apply_async(link_error=project.on_error_three.s(str(path)))
    # By its id: with the results before it, Celery raises their error before this one has an end.
    ended = error_of(project.app.AsyncResult(result.id))
    return [ended, notes(path, 1), result.parent.state, result.parent.parent.state]


def a_chain_that_fails_at_once(path: Path) -> Any:
    result = chain(project.fail.s("first"), add.s(1), add.s(2)).apply_async()
    return error_of(project.app.AsyncResult(result.id))


def a_chain_whose_task_is_retried(path: Path) -> Any:
    return get(chain(project.flaky.s(str(path), 1), project.same.s()).apply_async())


def a_group(path: Path) -> Any:
    result = group(add.s(n, n) for n in range(4)).apply_async()
    return [get(result), result.successful(), len(result), result.completed_count()]


def a_group_with_arguments(path: Path) -> Any:
    return get(group(add.s(1), add.s(2)).delay(10))


def a_group_that_fails(path: Path) -> Any:
    result = group(add.s(1, 1), project.fail.s("one")).apply_async()
    try:
        get(result)
    except ValueError as error:
        kept = result.get(timeout=TIMEOUT, propagate=False)
        return [str(error), kept[0], str(kept[1]), result.failed()]
    return "no error"


def a_nested_group(path: Path) -> Any:
    return get(group(add.s(1, 1), group(add.s(2, 2), add.s(3, 3))).apply_async())


def a_group_of_chains(path: Path) -> Any:
    return get(group(add.s(1, 1) | add.s(10), add.s(2, 2) | add.s(20)).apply_async())


def a_chain_into_a_group(path: Path) -> Any:
    return get(chain(add.s(1, 1), group(add.s(10), add.s(20))).apply_async())


def a_chord(path: Path) -> Any:
    return get(chord([add.s(n, n) for n in range(5)])(project.total.s()))


def a_chord_by_bars(path: Path) -> Any:
    whole = group(add.s(n, n) for n in range(5)) | project.total.s() | add.s(100)
    return get(whole.apply_async())


def a_chord_in_a_chain(path: Path) -> Any:
    whole = chain(add.s(1, 1), group(add.s(1), add.s(2)), project.total.s(), add.s(1000))
    return get(whole.apply_async())


def a_chord_of_chains(path: Path) -> Any:
    header = [add.s(1, 1) | add.s(1), add.s(2, 2) | add.s(2), add.s(3, 3)]
    return get(chord(header)(project.total.s()))


def a_chord_of_chords(path: Path) -> Any:
    inner = chord([add.s(1, 1), add.s(2, 2)], project.total.s())
    return get(chord([inner, add.s(10, 10)])(project.total.s()))


def two_chords_in_a_row(path: Path) -> Any:
    whole = (
        group(add.s(1, 1), add.s(2, 2))
        | project.total.s()
        | group(add.s(1), add.s(2))
        | project.total.s()
    )
    return get(whole.apply_async())


def a_chord_of_one(path: Path) -> Any:
    return [
        get(chord([add.s(1, 1)])(project.same.s())),
        get((group(add.s(1, 1)) | project.same.s()).apply_async()),
    ]


def a_chord_with_an_immutable_body(path: Path) -> Any:
    return get(chord([add.s(1, 1), add.s(2, 2)])(project.same.si("body")))


def a_chord_that_fails(path: Path) -> Any:
    body = project.write.s(str(path))
    body.link_error(project.on_error_one.s(str(path)))
    result = chord([add.s(1, 1), project.fail.s("header")])(body)
    kind, text, state = error_of(project.app.AsyncResult(result.id))
    return [kind, "raised ValueError('header')" in text, state, notes(path, 1), error_of(result)]


def a_chord_whose_task_is_retried(path: Path) -> Any:
    return get(chord([project.flaky.s(str(path), 1), add.s(1, 1)])(project.same.s()))


def a_map(path: Path) -> Any:
    return [
        get(project.total.map([(1, 2), (3, 4)]).apply_async()),
        get(add.starmap([(1, 2), (3, 4)]).apply_async()),
        get(add.chunks([(n, n) for n in range(5)], 2).apply_async()),
    ]


def a_signature_that_is_sent(path: Path) -> Any:
    plain = json.loads(json.dumps(add.s(1, 2)))
    by_name = project.app.signature("compat_tests.facade.task_project.add", args=(3, 4))
    return [
        get(project.signature(plain, app=project.app).apply_async()),
        get(by_name.delay()),
        get(add.s(5).set(countdown=0).clone((6,)).apply_async()),
        ~add.s(1, 1),
    ]


def callbacks_of_results(path: Path) -> Any:
    told: list[Any] = []
    one, two = add.delay(1, 2), add.delay(2, 2)
    both = project.app.GroupResult("both", [one, two])
    one.then(lambda result: told.append(["then", result.id == one.id]))
    both.get(timeout=TIMEOUT, callback=lambda _, value: told.append(["of a group", value]))
    two.get(timeout=TIMEOUT, callback=lambda key, value: told.append([key == two.id, value]))
    two.then(lambda result: told.append(["late", result.ready()]))
    waited = project.write.apply_async(("waited", str(path)), countdown=1)
    waited.get(timeout=TIMEOUT, interval=0.1, on_interval=lambda: told.append("interval"))
    others = [each for each in told if each != "interval"]
    # Celery calls in the order in which the tasks have ended.
    return [sorted(others, key=repr), "interval" in told]


def an_id_that_is_sent_again(path: Path) -> Any:
    key = str(path.resolve())
    get(project.write.apply_async((1, str(path)), task_id=key))
    project.write.s(2, str(path)).set(task_id=key).apply_async()
    return notes(path, 2)  # its value is the second one here, and the first one on Celery


def a_task_that_leaves(path: Path) -> Any:
    result = project.leave.delay()
    try:
        return get(result)
    except Exception:
        return [result.state, isinstance(result.result, Exception)]


def times_as_texts(path: Path) -> Any:
    options = {"eta": "2020-01-01T00:00:00+00:00", "expires": "2199-01-01T00:00:00Z"}
    return get(add.apply_async((1, 1), **options))


def floats_that_are_no_numbers(path: Path) -> Any:
    given = [float("nan"), {"up": float("inf")}, float("-inf"), 0.5]
    return repr(get(project.same.delay(given)))


def a_group_of_a_chord(path: Path) -> Any:
    inner = chord([add.s(1, 1), add.s(2, 2)], project.total.s())
    return get(group(inner, add.s(5, 5)).apply_async())


def a_chain_sent_in_a_task(path: Path) -> Any:
    return get(project.app.AsyncResult(get(project.sending.delay([1, 2]))))


def eagerly(path: Path) -> Any:
    whole = chain(add.s(1, 1), group(add.s(10), add.s(20)), project.total.s())
    return [
        project.flaky.apply((str(path), 2)).get(),
        whole.apply().get(),
        chord([add.s(1, 1), add.s(2, 2)], project.total.s()).apply().get(),
        group(add.s(1, 1), add.s(2, 2)).apply().get(),
        project.about.apply((1,)).get()["is_eager"],
        error_of(project.fail.apply(("eager",))),
        error_of(project.never_good.apply((f"{path}.never",)))[0],
        project.wrapped.apply((1,)).get(),
        add(1, 2),
        project.wrapped(1),
    ]


def a_chain_whose_process_dies(path: Path) -> Any:
    whole = chain(add.s(1, 1), project.die.si(), add.s(1), add.s(2))
    result = whole.apply_async(link_error=project.on_error_one.s(str(path)))
    return [error_of(project.app.AsyncResult(result.id)), notes(path, 1)]


def a_chord_whose_process_dies(path: Path) -> Any:
    result = chord([add.s(1, 1), project.die.si(), add.s(2, 2)])(project.total.s())
    kind, text, _ = error_of(project.app.AsyncResult(result.id))
    return [[kind, "ChildDiedError" in text], text]


def a_task_that_waits(path: Path) -> Any:
    return get(project.waiting.delay())


def a_retry_that_is_not_sent(path: Path) -> Any:
    return error_of(project.retry_of_its_own.delay())


#: What Celery does not do, or not alike each time.
OF_OURS = (
    a_chain_whose_process_dies,
    a_chord_whose_process_dies,
    a_task_that_waits,
    a_retry_that_is_not_sent,
)

SCENARIOS: dict[str, Callable[[Path], Any]] = {
    each.__name__: each
    for each in list(globals().values())
    if callable(each) and getattr(each, "__annotations__", {}).keys() == {"path", "return"}
    if each not in OF_OURS
}


def report(directory: Path, names: list[str]) -> dict[str, Any]:
    """Return what comes of some of the scenarios, all of them if none is named."""
    found = {}
    for name in names or list(SCENARIOS):
        try:
            found[name] = globals()[name](directory / name)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    # As JSON has it.
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


if __name__ == "__main__":
    json.dump(report(Path(sys.argv[1]), sys.argv[2:]), sys.stdout, indent=1)
