"""The request that is made of a call of a task, and the queue that it goes to."""

import json
import re
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery.app.routes import Router, prepare

from dagster_celery import DagsterCeleryWarning
from dagster_celery._celery_app.conf import Conf, as_mapping
from dagster_celery._celery_app.routing import Call, Queue, options_of, queue_of, route_of
from dagster_celery._celery_app.sending import STEP_REQUEST, task_request
from dagster_celery._celery_app.task_options import LOST, OPTIONS, WITHOUT_EFFECT, checked
from dagster_celery._celery_app.values import from_result, to_result
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.wire.labels import TYPED_LABEL
from dagster_taskiq.wire.task_request import TaskRequest

#: The time of all calls, in seconds since the epoch.
NOW = datetime(2030, 1, 1, 12, tzinfo=timezone.utc).timestamp()


def request(zone: str | None = None, **options: Any) -> TaskRequest:
    """Return the request for a call with these options."""
    return task_request(
        "name", (1,), {"b": 2}, options, queue="q", default_priority=5, zone=zone, now=NOW
    )


def test_a_call_without_options_has_the_defaults() -> None:
    made = request()

    assert (made.name, made.args, made.kwargs, made.queue) == ("name", [1], {"b": 2}, "q")
    assert (made.priority, made.delay, made.expires_at, made.labels) == (5, 0.0, 0.0, {})
    assert (made.run_id, made.step_key) == ("", "")
    assert made.id != request().id


class OwnForm:
    def __json__(self) -> Any:
        return {"amount": Decimal("1.10")}


def test_arguments_are_json_with_the_types_that_celery_keeps() -> None:
    made = task_request(
        *("name", (datetime(2030, 1, 1), (b"\xff",)), {"own": OwnForm()}, {}),
        queue="q",
        default_priority=0,
        zone=None,
        now=NOW,
    )

    assert made.labels == {TYPED_LABEL: 1}
    assert json.loads(json.dumps([made.args, made.kwargs])) == [
        [
            {"__type__": "datetime", "__value__": "2030-01-01T00:00:00"},
            [{"__type__": "base64", "__value__": "/w=="}],
        ],
        {"own": {"amount": {"__type__": "decimal", "__value__": "1.10"}}},
    ]
    assert request().labels == {}


def test_arguments_are_written_as_kombu_writes_them() -> None:
    from kombu.utils.json import dumps, loads

    now = datetime(2030, 1, 1, 12, 30, tzinfo=timezone.utc)
    values = [now, now.date(), now.timetz(), Decimal("-1E+3"), UUID(int=7), b"text", b"\xff"]

    assert json.loads(dumps(values)) == to_result(values)
    assert loads(json.dumps(to_result(values))) == from_result(to_result(values)) == values
    assert from_result({"__type__": "uuid", "__value__": "no"}) == {
        "__type__": "uuid",
        "__value__": "no",
    }


def test_a_priority_of_zero_is_a_priority() -> None:
    assert request(priority=0).priority == 0


@pytest.mark.parametrize(
    ("options", "zone", "delay"),
    [
        ({"countdown": 3}, None, 3.0),
        ({"countdown": -3}, None, 0.0),
        ({"eta": datetime(2030, 1, 1, 13, tzinfo=timezone.utc)}, None, 3600.0),
        ({"eta": datetime(2030, 1, 1, 13), "countdown": 3}, None, 3600.0),
        ({"eta": datetime(2030, 1, 1, 13)}, "Europe/Berlin", 0.0),
        ({"eta": datetime(2030, 1, 1, 14)}, "Europe/Berlin", 3600.0),
        ({"eta": datetime(2020, 1, 1)}, None, 0.0),
    ],
)
def test_a_task_is_delayed_by_seconds_or_until_a_time(
    options: dict[str, Any], zone: str | None, delay: float
) -> None:
    assert request(zone, **options).delay == delay


@pytest.mark.parametrize(
    ("expires", "zone", "expires_at"),
    [
        (60, None, NOW + 60),
        (datetime(2030, 1, 1, 12), None, NOW),
        (datetime(2030, 1, 1, 13), "Europe/Berlin", NOW),
    ],
)
def test_a_task_expires_after_seconds_or_at_a_time(
    expires: object, zone: str | None, expires_at: float
) -> None:
    assert request(zone, expires=expires).expires_at == expires_at


def test_time_limits_are_labels() -> None:
    assert request(time_limit=9, soft_time_limit=None).labels == {"time_limit": 9}


def test_what_a_run_loop_has_sent_is_the_task_of_its_step() -> None:
    step = TaskRequest("of-step", "x", {}, "q", run_id="run", step_key="step", labels={"a": 1})
    token = STEP_REQUEST.set(step)
    try:
        made = request(task_id="mine", time_limit=9)
    finally:
        STEP_REQUEST.reset(token)

    assert (made.id, made.run_id, made.step_key) == ("of-step", "run", "step")
    assert made.labels == {"a": 1, "time_limit": 9}
    assert (made.name, made.kwargs) == ("name", {"b": 2})
    assert request(task_id="mine").id == "mine"


ROUTES = {
    "reports.daily": {"queue": "daily"},
    "reports.*": {"queue": "reports", "routing_key": "ignored"},
    "keyed": {"routing_key": "some.key"},
    "text": "queue-as-text",
}


@pytest.mark.parametrize(
    ("name", "options", "queue"),
    [
        ("reports.daily", {}, "daily"),
        ("reports.weekly", {}, "reports"),
        ("reports.daily", {"queue": "mine"}, "mine"),
        ("reports.daily", {"routing_key": "some.key"}, "by-key"),
        ("keyed", {}, "by-key"),
        ("text", {}, "queue-as-text"),
        ("unknown", {}, "default"),
        ("unknown", {"routing_key": "of.no.queue"}, "default"),
    ],
)
def test_the_queue_is_that_of_the_call_the_route_or_the_key(
    name: str, options: dict[str, Any], queue: str
) -> None:
    conf = Conf({"task_routes": ROUTES, "task_queues": [Queue("by-key", "some.key")]}, {})

    route = route_of(Call(name), options, conf)
    assert queue_of(options, route, conf, "default") == queue


def by_arguments(
    name: str, args: Any, kwargs: Any, options: Any, task: object = None, **_: Any
) -> Any:
    """Route by what the call has, as a function of ``task_routes`` may."""
    if name == "by.arguments":
        return {"queue": f"q-{args[0]}-{kwargs['b']}", "priority": 3, "exchange": "x"}
    return "as-text" if options.get("time_limit") else None


class OfBefore:
    """A router as Celery had them before version 4."""

    def route_for_task(self, name: str, args: Any = None, kwargs: Any = None) -> Any:
        return {"queue": "of-before"} if name == "older" else None


@pytest.mark.parametrize(
    ("routes", "name", "options", "route"),
    [
        (by_arguments, "by.arguments", {}, {"queue": "q-1-2", "priority": 3, "exchange": "x"}),
        (by_arguments, "other", {"time_limit": 1}, {"queue": "as-text"}),
        (by_arguments, "other", {}, {}),
        ([{"a.*": {"queue": "a"}}, by_arguments], "a.b", {}, {"queue": "a"}),
        (
            ({"a.*": "a"}, by_arguments),
            "by.arguments",
            {},
            {"queue": "q-1-2", "priority": 3, "exchange": "x"},
        ),
        ([[("a.*", "one"), ("b", {"queue": "two"})]], "b", {}, {"queue": "two"}),
        ({re.compile("(video|image).+"): "media"}, "image.scale", {}, {"queue": "media"}),
        ({"a?": "only an asterisk makes a pattern"}, "ab", {}, {}),
        (f"{__name__}.OfBefore", "older", {}, {"queue": "of-before"}),
        (f"{__name__}:by_arguments", "other", {"time_limit": 1}, {"queue": "as-text"}),
        (None, "any", {}, {}),
    ],
)
def test_routes_are_those_of_celery(
    routes: Any, name: str, options: dict[str, Any], route: dict[str, Any]
) -> None:
    conf = Conf({"task_routes": routes}, {})

    celerys = Router(prepare(routes)).lookup_route(name, (1,), {"b": 2}, options, None)

    assert route_of(Call(name, (1,), {"b": 2}), options, conf) == route
    assert ({"queue": celerys} if isinstance(celerys, str) else celerys or {}) == route
    assert options_of(route) == ({"priority": 3} if "priority" in route else {})


@pytest.mark.parametrize("place", ["no.such.module", "builtins.nothing", "plain"])
def test_a_router_that_cannot_be_imported_is_named(place: str) -> None:
    with pytest.raises(ConfigError, match=f'The router "{place}" of task_routes'):
        route_of(Call("any"), {}, Conf({"task_routes": [place]}, {}))


@pytest.mark.parametrize("option", LOST)
def test_an_option_that_loses_something_is_shown_once_for_each_line(option: str) -> None:
    with pytest.warns(
        DagsterCeleryWarning, match=re.escape(f"{option} has no effect here: {LOST[option]}")
    ):
        assert checked({option: 1, "priority": 2}) == {"priority": 2}


def test_options_that_change_nothing_are_dropped() -> None:
    known = {**dict.fromkeys(WITHOUT_EFFECT, 1), "serializer": "json"}
    given = {**known, **dict.fromkeys(OPTIONS, 2), "shadow": None}

    assert checked(given) == dict.fromkeys(OPTIONS, 2)
    with pytest.raises(
        ConfigError, match=r"'coutdown' is not served here\. Did you mean countdown"
    ):
        checked({"coutdown": 1})


class Source:
    broker_url = "redis://host"
    _private = 1

    def method(self) -> None:
        """Be no setting."""


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        (None, {}),
        ({"a": 1}, {"a": 1}),
        (Source, {"broker_url": "redis://host"}),
        ("dagster_celery._celery_app.sending", {}),
    ],
)
def test_settings_are_read_from_mappings_objects_and_modules(source: Any, settings: Any) -> None:
    found = as_mapping(source)

    assert {name: found[name] for name in settings} == settings
    assert not any(name.startswith("_") or name in ("method", "task_request") for name in found)
