"""How a signature of several tasks is made ready and sent.

Prepared, each task has its id, and its message will carry all that follows it: the rest of its
chain, and the chord whose header it is in. So no process has to stay for the tasks to follow each
other: each one sends the next (:mod:`dagster_celery._celery_app.following`).
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dagster_celery._celery_app.current_app import SendingApp
from dagster_celery._celery_app.results import GroupResult
from dagster_celery._celery_app.signature import Signature, as_list, maybe_signature
from dagster_taskiq.errors import ConfigError

#: By this task, the completion of a chord is looked for from time to time.
CHORD_UNLOCK = "celery.chord_unlock"

#: Option of the body of a chord that Celery's own made: the ids of the tasks of its header.
HEADER_IDS = "dagster_celery_header"

#: Seconds between two looks at a chord: the first pause, and the longest; each is twice as long as
#: the one before. The end of each task of the header is a look, too: these are for those that end
#: with their process.
UNLOCK_SECONDS = (2.0, 60.0)
#: How often it is looked at most, which takes a month: its tasks may not be known any more.
MOST_LOOKS = 43_200

#: Options of a chain that belong to its last task, or to all of them; others are of its first.
_NOT_OF_THE_FIRST = ("link", "link_error", "task_id")


def prepare(whole: Signature, app: SendingApp, options: Mapping[str, Any]) -> Signature:
    """Return a copy of a signature in which every task has its id, and knows what follows it.

    Args:
        whole: the signature.
        app: sends it.
        options: of the call; ``task_id`` is that of its result.

    Returns:
        A call of one task; a chain of such, of which only the last may be a group or chord; a group
        of any; or a chord, whose body is any of these.

    Raises:
        ConfigError: a task of a chord's header has an id of its own.
    """
    copy = whole.clone()
    result_id = options.get("task_id")
    others = {name: value for name, value in options.items() if name != "task_id"}
    prepared = _of_kind(copy, app, others)
    if result_id is not None:
        _last(prepared).options["task_id"] = str(result_id)
    _give_ids(prepared)
    return prepared


def send(
    prepared: Signature,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    **carried: Any,
) -> None:
    """Send the first tasks of a prepared signature.

    Args:
        prepared: as :func:`prepare` returns it.
        args: go before those of the first tasks.
        kwargs: go to the first tasks.
        carried: options that their messages carry.

    Raises:
        ServerUnavailableError: the broker does not answer; some of them may have been sent.
    """
    parts = prepared.kwargs
    if prepared.kind == "chain":
        first, *rest = parts["tasks"]
        carried = {**carried, "chain": rest[::-1]} if rest else carried
        send(first, args, kwargs, **carried)
    elif prepared.kind == "group":
        for each in parts["tasks"]:
            send(each, args, kwargs, **carried)
    elif prepared.kind == "chord":
        if not parts["header"].tasks:
            send(parts["body"], ([],))
            return
        send(parts["header"], args, kwargs, **carried)
        watch(prepared.app, prepared.options["chord"])
    else:
        prepared.apply_async(args, kwargs, **carried)


def made_ready(following: Any, rest: Sequence[Any], app: SendingApp) -> Signature:
    """Return what follows a task as it can be sent.

    Args:
        following: the next signature, as the message of the task carries it. It has been prepared;
            but in a chain of Celery's own, by Celery, in another way.
        rest: the signatures after that, the next one last.
        app: sends it.
    """
    made: Signature = maybe_signature(following, app)
    if rest:
        made = Signature.kinds["chain"](made, *rest[::-1], app=app)
    chords = [each for each in _tasks_of(made) if each.kind == "chord"]
    if all("size" in (each.options.get("chord") or {}) for each in chords):
        return made
    for each in chords:
        for task in _tasks_of(maybe_signature(each.kwargs["header"], app)):
            for name in ("task_id", "chord", "group_id", "group_index"):
                task.options.pop(name, None)
        outer = each.options.pop("chord", None)
        if outer is not None:
            _last(each).options["chord"] = outer
    return prepare(made, app, {})


def _tasks_of(whole: Signature) -> Iterator[Signature]:
    """Yield a signature, and all those that it consists of."""
    yield whole
    parts = whole.kwargs
    inner = {"chain": "tasks", "group": "tasks"}.get(whole.kind or "")
    if whole.kind == "chord":
        yield from _tasks_of(maybe_signature(parts["header"], whole.app))
        yield from _tasks_of(maybe_signature(parts["body"], whole.app))
    for each in parts[inner] if inner else ():
        yield from _tasks_of(maybe_signature(each, whole.app))


def result_of(prepared: Signature) -> Any:
    """Return the result of a prepared signature."""
    app, parts = prepared.app, prepared.kwargs
    if prepared.kind == "chain":
        found: Any = None
        for each in parts["tasks"]:
            before, found = found, result_of(each)
            first = found
            while first.parent is not None:
                first = first.parent
            first.parent = before
        return found
    if prepared.kind == "group":
        return GroupResult(str(prepared.id), [result_of(each) for each in parts["tasks"]])
    if prepared.kind == "chord":
        found = result_of(parts["body"])
        found.parent = result_of(parts["header"])
        return found
    return app.AsyncResult(str(prepared.id))


def leaves(prepared: Signature) -> Iterator[Signature]:
    """Yield the tasks that the result of a signature is made of, in order."""
    parts = prepared.kwargs
    if prepared.kind == "chain":
        yield from leaves(parts["tasks"][-1])
    elif prepared.kind == "group":
        for each in parts["tasks"]:
            yield from leaves(each)
    elif prepared.kind == "chord":
        yield from leaves(parts["body"])
    else:
        yield prepared


def header_ids(body: Mapping[str, Any], chord: Mapping[str, Any]) -> list[str]:
    """Return the ids of the tasks whose values the body of a chord gets.

    Args:
        body: the body.
        chord: what the message of a task of the header carries of the chord.
    """
    if "size" in chord:
        return [_header_id(chord["id"], index) for index in range(chord["size"])]
    return list(body["options"].get(HEADER_IDS, ()))


def body_of(chord: Mapping[str, Any]) -> Any:
    """Return the body of a chord, by what the message of a task of its header carries."""
    return chord["body"] if "size" in chord else chord


def watch(app: SendingApp, chord: Mapping[str, Any]) -> None:
    """Send the task that looks for the completion of a chord from time to time.

    Args:
        app: sends it.
        chord: as the message of a task of the header carries it.
    """
    body = next(leaves(maybe_signature(body_of(chord), app)), None)
    queue = None if body is None else app.queue_for(body.name, body.options)
    app.send_task(CHORD_UNLOCK, (chord,), countdown=UNLOCK_SECONDS[0], queue=queue)


def _header_id(chord_id: str, index: int) -> str:
    """Return the id of a task of a header: each of them knows those of all others so."""
    return str(uuid.uuid5(uuid.UUID(chord_id), str(index)))


def _of_kind(copy: Signature, app: SendingApp, options: Mapping[str, Any]) -> Signature:
    """Return a copy in its final form, with options of the call in its tasks; with no ids yet."""
    copy._app = copy._app or app
    options = {**copy.options, **options}
    if copy.kind == "chunks":
        made = copy.group()  # type: ignore[attr-defined] # it is a chunks, which imports this module
        return _of_kind(made, app, options)
    if copy.kind == "chain":
        return _chain(copy, app, options)
    if copy.kind == "group":
        tasks = [_of_kind(each, app, _of_tasks(options)) for each in _flat(copy, app)]
        copy.kwargs["tasks"] = tasks
    elif copy.kind == "chord":
        own = _of_tasks(options)
        copy.kwargs["header"] = _of_kind(maybe_signature(copy.kwargs["header"], app), app, own)
        copy.kwargs["body"] = _of_kind(maybe_signature(copy.kwargs["body"], app), app, own)
    else:
        copy.options.update(options)
    return copy


def _of_tasks(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without those that are not of each task."""
    return {name: value for name, value in options.items() if name != "task_id"}


def _chain(copy: Signature, app: SendingApp, options: Mapping[str, Any]) -> Signature:
    steps = list(_steps(copy, app))
    for callback in as_list(options.get("link")):
        steps[-1].link(callback)
    for errback in as_list(options.get("link_error")):
        for each in steps:
            each.link_error(errback)
    tasks: list[Signature] = []
    for index, step in enumerate(steps):
        rest = steps[index + 1 :]
        if step.kind == "chunks":
            step = step.group()  # type: ignore[attr-defined] # noqa: PLW2901 - see above
        if step.kind == "group":
            members = _flat(step, app)
            if not members and (rest or tasks):
                continue
            if len(members) == 1 and rest:
                tasks.append(members[0])  # as in Celery, its value is no list then
                continue
            if rest:
                step = Signature.kinds["chord"](step, _all_of(rest, app), app=app)  # noqa: PLW2901
        elif step.kind == "chord" and rest:
            body = [*_steps_of(step.kwargs["body"], app), *rest]
            step.kwargs["body"] = _all_of(body, app)
        else:
            tasks.append(step)
            continue
        tasks.append(step)
        break
    of_first = {name: options[name] for name in options if name not in _NOT_OF_THE_FIRST}
    made = [_of_kind(each, app, {} if index else of_first) for index, each in enumerate(tasks)]
    if len(made) == 1:
        return made[0]
    copy.kwargs["tasks"], copy["options"] = made, {}
    return copy


def _steps_of(signature: Any, app: SendingApp) -> Iterator[Signature]:
    made = maybe_signature(signature, app)
    if made.kind == "chain":
        yield from _steps(made, app)
    else:
        yield made


def _steps(whole: Signature, app: SendingApp) -> Iterator[Signature]:
    """Yield the steps of a chain, and of the chains in it."""
    found = [step for each in whole.kwargs["tasks"] for step in _steps_of(each, app)]
    for step in found:
        step._app = step._app or app
    yield from found


def _all_of(steps: list[Signature], app: SendingApp) -> Signature:
    return steps[0] if len(steps) == 1 else Signature.kinds["chain"](*steps, app=app)


def _flat(whole: Signature, app: SendingApp) -> list[Signature]:
    """Return the tasks of a group, and of the groups in it."""
    found: list[Signature] = []
    for each in whole.kwargs["tasks"]:
        made = maybe_signature(each, app)
        if made.kind == "chunks":
            made = made.group()
        if made.kind == "group":
            for inner in _flat(made, app):
                inner.options.update(_of_tasks(made.options))
                found.append(inner)
        elif made.kind != "chain" or made.kwargs["tasks"]:
            found.append(made)
    return found


def _last(prepared: Signature) -> Signature:
    """Return the task that has the result of a signature, or the group of such."""
    if prepared.kind == "chain":
        return _last(prepared.kwargs["tasks"][-1])
    if prepared.kind == "chord":
        return _last(prepared.kwargs["body"])
    return prepared


def _give_ids(prepared: Signature) -> None:
    """Give each task its id, and those of a header their chord; what has an id keeps it."""
    parts = prepared.kwargs
    if prepared.kind == "chord":
        _give_ids(parts["body"])
        _join_header(prepared)
        _give_ids(parts["header"])
        return
    if prepared.kind in ("chain", "group"):
        for each in parts["tasks"]:
            _give_ids(each)
    if prepared.kind == "group":
        group_id = prepared.options.setdefault("task_id", str(uuid.uuid4()))
        for index, each in enumerate(parts["tasks"]):
            for task in leaves(each):
                task.options.setdefault("group_id", group_id)
                task.options.setdefault("group_index", index)
    elif prepared.kind is None or prepared.kind in ("xmap", "xstarmap"):
        prepared.options.setdefault("task_id", str(uuid.uuid4()))


def _join_header(prepared: Signature) -> None:
    """Give the tasks of a chord's header their ids, and the chord that they complete."""
    parts = prepared.kwargs
    members = list(leaves(parts["header"]))
    chord_id = str(uuid.uuid4())
    joined = {"id": chord_id, "size": len(members), "body": parts["body"]}
    for index, task in enumerate(members):
        if task.id is not None:
            raise ConfigError(
                f"The task {task.name} is in the header of a chord, and cannot have a task_id of "
                "its own there. Leave it out: the id is in the result's `parent`."
            )
        task.options.update(
            task_id=_header_id(chord_id, index),
            chord=joined,
            group_id=chord_id,
            group_index=index,
        )
    parts["header"].options["task_id"] = chord_id
    prepared.options["chord"] = {"id": chord_id, "size": len(members), "body": parts["body"]}
