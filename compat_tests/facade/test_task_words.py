"""Celery's words about tasks: each is known here, with its fate; and parts that need no worker."""

import pickle
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from types import ModuleType
from typing import Any

import celery
import click
import pytest
from celery import signals as celerys_signals
from celery.app.task import Task as CelerysTask
from celery.utils.dispatch import Signal

from dagster_celery import DagsterCeleryWarning
from dagster_celery._celery_app import signals
from dagster_celery._celery_app.adopted import served
from dagster_celery._celery_app.celery_errors import kinds
from dagster_celery._celery_app.task_errors import Ignore, Retry
from dagster_celery._celery_app.task_options import (
    LOST,
    OF_A_TASK,
    OPTIONS,
    REFUSED,
    WITHOUT_EFFECT,
)
from dagster_celery.canvas import chain, chord, group, signature
from dagster_celery.make_app import make_app
from dagster_celery.result import result_from_tuple
from dagster_celery.tasks import create_task
from dagster_taskiq.errors import ConfigError

KNOWN = {*OPTIONS, *OF_A_TASK, *WITHOUT_EFFECT, *LOST, *REFUSED}
EAGER = {"config_source": {"task_always_eager": True}}


def test_every_option_of_celerys_tasks_is_known() -> None:
    options = {
        name
        for name, value in vars(CelerysTask).items()
        if not (
            name.startswith("_") or callable(value) or isinstance(value, classmethod | property)
        )
    }
    # What Celery keeps there that is no option.
    options -= {"app", "backend", "from_config", "request_stack"}

    assert {"max_retries", "throws", "acks_on_timeout"} <= options
    assert options - KNOWN == set()


def test_every_signal_of_celerys_is_known() -> None:
    known = {name for name, each in vars(celerys_signals).items() if isinstance(each, Signal)}

    assert known == {*signals.SENT, *signals.NOT_SENT}
    assert not signals.SENT.keys() & signals.NOT_SENT.keys()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pydantic": True}, "'pydantic' is not served here: make the model"),
        ({"max_retrys": 3}, "There is no task option 'max_retrys'. Did you mean max_retries"),
        ({"base": CelerysTask}, "has to derive from app.Task here"),
    ],
)
def test_an_option_of_a_task_that_cannot_be_kept_is_refused(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        make_app(EAGER).task(**options)(print)


def test_tasks_and_results_can_be_pickled() -> None:
    app = make_app({"broker": "redis://h"})
    task = app.task(name="pickled")(print)
    before = app.AsyncResult("before")
    one = app.AsyncResult("one", parent=before)
    both = app.GroupResult("both", [one, app.AsyncResult("two")], parent=before)

    assert pickle.loads(pickle.dumps(task)) is task
    again = pickle.loads(pickle.dumps(both))
    assert again.as_tuple() == both.as_tuple() and again.results[0].app is app
    assert (result_from_tuple(one) is one, both.as_list(), one.as_list()) == (
        *(True, ["both", "before"], ["one", "before"]),
    )


def test_a_task_is_replaced_in_eager_mode() -> None:
    app = make_app(EAGER)
    add = app.task(name="add")(lambda x, y: x + y)

    @app.task(bind=True)
    def replaced(self: Any) -> None:
        raise self.replace(group(add.s(1, 1), add.s(2, 2)))

    assert replaced.apply(task_id="mine").get() == [2, 4]
    assert replaced.apply(task_id="mine").id == "mine"
    assert replaced.apply(task_id="mine").as_tuple() == (("mine", None), None)


def test_an_option_of_the_projects_own_is_an_attribute() -> None:
    task = make_app(EAGER).task(name="own", team="finance", max_retries=None)(lambda: None)

    assert (task.team, task.max_retries, task.default_retry_delay) == ("finance", None, 180)
    with pytest.raises(AttributeError, match=r"task own .*'tema'"):
        task.tema  # noqa: B018


def test_a_class_that_asks_for_what_is_not_done_is_warned_of() -> None:
    app = make_app(EAGER)

    class Limited(app.Task):  # type: ignore[misc,name-defined] # a class of the app
        name = "limited"
        rate_limit = "10/m"

        def run(self) -> int:
            return 1

    with pytest.warns(DagsterCeleryWarning, match="rate_limit has no effect here"):
        task = app.register_task(Limited)
    assert task.delay().get() == 1


def test_a_class_is_defined_without_a_look_at_its_properties() -> None:
    app = make_app(EAGER)
    opened: list[object] = []

    class DatabaseTask(app.Task):  # type: ignore[misc,name-defined] # a class of the app
        @property
        def database(self) -> int:
            opened.append(self)
            return len(opened)

    @app.task(base=DatabaseTask, bind=True)
    def query(self: Any) -> int:
        return int(self.database)

    assert app.taskiq_broker.find_task(query.name) and query.s() and opened == []
    assert query.delay().get() == 1 and len(opened) == 1
    assert (query.__name__, wraps(query)(lambda: None).__name__) == ("query", "query")


def test_callbacks_of_results_that_cannot_be_called_are_refused() -> None:
    result = make_app({"broker": "redis://host"}).AsyncResult("id")
    with pytest.raises(ConfigError, match=r"get\(on_message=...\) is not served here: look at"):
        result.get(on_message=print)


@pytest.mark.parametrize(
    ("find", "name", "instead"),
    [
        (lambda app: app.control, "purge", "dagster-taskiq status"),
        (lambda app: app.control.inspect(), "revoked", "dagster-taskiq status"),
        (lambda app: app.AsyncResult("id"), "date_done", r"app\.AsyncResult\(id\)"),
        (lambda app: app.GroupResult("id", []), "save", r"app\.AsyncResult\(id\)"),
        (lambda app: app.backend, "store_result", r"app\.AsyncResult\(id\)"),
        (lambda app: app, "ResultSet", r"dagster_taskiq\.app\.broker"),
    ],
)
def test_a_part_of_celerys_that_is_not_here_says_what_to_do(
    find: Callable[[Any], Any], name: str, instead: str
) -> None:
    owner = find(make_app({"broker": "redis://host"}))
    with pytest.raises(AttributeError, match=f"does not include '{name}'.*{instead}"):
        getattr(owner, name)
    assert getattr(owner, name, None) is None


def test_a_setting_that_is_a_list_can_be_added_to() -> None:
    app = make_app({"broker": "redis://host"})
    for each in ("json", "csv"):
        app.conf.imports = app.conf.imports + (each,)  # noqa: RUF005 - as projects write it
    assert app.conf.imports == ("json", "csv")


def test_settings_that_are_changed_in_place_count() -> None:
    routes = {"a": {"queue": "one"}}
    app = make_app({"broker": "redis://host", "config_source": {"task_routes": routes}})
    assert app.queue_for("b", {}) == "dagster"
    app.conf.task_routes["b"] = {"queue": "two"}
    app.conf["broker_transport_options"]["global_keyprefix"] = "mine"
    app.conf.beat_schedule["hourly"] = {"task": "a", "schedule": 3600}

    assert [app.queue_for(each, {}) for each in ("a", "b")] == ["one", "two"]
    assert app.configuration.settings.prefix == "mine"
    assert set(app.configuration.app["beat_schedule"]) == {"hourly"}
    app.conf.task_routes = {}
    assert app.queue_for("a", {}) == "dagster"


def test_a_secret_in_a_setting_that_was_read_stays_a_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    options = {"global_keyprefix": {"env": "MY_KEY"}}
    app = make_app({"broker": "redis://h", "config_source": {"broker_transport_options": options}})
    assert app.conf.broker_transport_options == {"global_keyprefix": "secret"}
    assert app.conf.given["broker_transport_options"] == options


class Annotating:
    """An object as ``task_annotations`` may name one."""

    def annotate(self, task: Any) -> dict[str, Any] | None:
        return {"team": "finance"} if task.name == "other" else None


def test_annotations_are_attributes_of_tasks() -> None:
    app = make_app(EAGER)
    told: list[object] = []

    @app.task(name="one", bind=True, max_retries=3)
    def one(self: Any, number: int) -> list[Any]:
        return [1 // number, self.max_retries, self.team]

    other = app.task(name="other")(lambda: other.team)
    mine = {
        "*": {"team": "all", "on_failure": lambda self, *_: told.append(self.name)},
        "one": {"max_retries": 1, "@__call__": lambda call: lambda *args: ["around", call(*args)]},
    }
    app.conf.task_annotations = [mine, f"{__name__}.Annotating"]

    assert one.delay(1).get() == ["around", [1, 1, "all"]]
    assert one.delay(1).get() == ["around", [1, 1, "all"]]
    assert one.delay(0).failed() and told == ["one"]
    mine["other"] = {"team": "later"}
    assert other.delay().get() == "all"
    app.conf.task_annotations = {"one": {"rate_limit": "1/s"}}
    with pytest.warns(DagsterCeleryWarning, match="rate_limit has no effect here"):
        one.delay(1)
    app.conf.task_annotations = "no.such.Name"
    with pytest.raises(ConfigError, match="cannot be imported"):
        one.delay(1)


@pytest.mark.parametrize("more", [{}, {"task_reject_on_worker_lost": True}])
def test_late_acknowledgement_of_own_tasks_is_lost_aloud(more: dict[str, Any]) -> None:
    app = make_app({"broker": "redis://h", "config_source": {"task_acks_late": True, **more}})
    with pytest.warns(DagsterCeleryWarning, match="task_acks_late has no effect on tasks of your"):
        app.task(name="own")(print)
    later = make_app({"broker": "redis://h"})
    later.task(name="own")(print)
    later.conf.update(task_acks_late=True, **more)
    with pytest.warns(DagsterCeleryWarning, match="task_acks_late has no effect on tasks of your"):
        assert later.configuration


def test_results_in_eager_mode_call_back_at_once() -> None:
    told: list[Any] = []
    task = make_app(EAGER).task(name="one")(lambda: 1)
    both = group(task.s(), task.s()).apply_async()
    task.delay().then(lambda result: told.append(result.get()))
    both.then(lambda found: told.append(len(found)))
    assert both.ready()
    both.then(lambda _: told.append(1 // 0), on_error=lambda error: told.append(str(error)[:16]))
    with pytest.raises(ZeroDivisionError):
        both.then(lambda _: 1 // 0)

    assert told == [1, 2, "integer division"]


def test_signatures_of_celerys_own_have_a_text() -> None:
    add = make_app(EAGER).task(name="add")(lambda x, y: x + y)
    total = make_app(EAGER).task(name="total")(sum)

    assert "add(1, 1)" in repr(celery.group(add.s(1, 1), add.s(2, 2)))
    assert "total([add(1, 1)])" in repr(celery.chord([add.s(1, 1)], total.s()))


def test_errors_are_caught_by_either_class() -> None:
    import celery.exceptions

    for raised in (Ignore(), celery.exceptions.Ignore()):
        with pytest.raises(kinds(Ignore)):
            raise raised
    app = make_app(EAGER)
    task = app.task(name="again", bind=True)(lambda self: self.retry(countdown=0))
    with pytest.raises(celery.exceptions.MaxRetriesExceededError):
        task.delay().get()
    with pytest.raises(Retry):
        task()


def test_a_signature_is_plain_data_and_comes_back() -> None:
    app = make_app(EAGER)
    add = app.task(name="add")(lambda x, y: x + y)
    total = app.task(name="total")(sum)
    whole = chain(add.s(1, 1), chord([add.s(1), add.s(2)], total.s()), add.s(1000))

    plain = whole.__json__()

    assert signature(plain, app=app).apply_async().get() == 1007
    assert repr(whole) == "add(1, 1) | chord([add(1), add(2)], total()) | add(1000)"
    assert group(add.s(1), add.s(2)).clone() == group(add.s(1), add.s(2))


@pytest.fixture
def settings_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    module: Any = ModuleType("settings_of_a_project")
    module.CELERY_RESULT_EXPIRES = 60
    module.RESULT_EXPIRES = 70
    module.result_expires = 80
    module.inner = {"result_expires": 90}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module.__name__


def test_settings_come_from_where_celery_takes_them(
    settings_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expires(*args: Any, **kwargs: Any) -> object:
        app = make_app({"broker": "redis://host"})
        app.config_from_object(*args, **kwargs)
        return app.conf.result_expires

    assert expires(settings_module) == 80
    assert expires(settings_module, namespace="CELERY") == 60
    assert expires(f"{settings_module}:inner") == 90
    assert expires(f"{settings_module}.inner") == 90
    assert expires("no_such_module", silent=True) is None
    with pytest.raises(ImportError):
        expires("no_such_module")
    app = make_app({"broker": "redis://host"})
    with pytest.raises(ConfigError, match="variable MY_SETTINGS is not set"):
        app.config_from_envvar("MY_SETTINGS")
    monkeypatch.setenv("MY_SETTINGS", settings_module)
    app.config_from_envvar("MY_SETTINGS")
    assert app.conf.result_expires == 80


def test_discovery_without_packages_names_the_line_to_write() -> None:
    with pytest.raises(ConfigError, match="INSTALLED_APPS"):
        make_app({}).autodiscover_tasks()


def test_events_of_an_app_are_told_once() -> None:
    app = make_app(EAGER)
    told: list[Any] = []
    app.on_after_configure.connect(lambda sender, **_: told.append(sender))
    app.finalize()
    app.finalize()
    app.on_after_finalize.connect(lambda sender, **_: told.append("late"))

    assert told == [app, "late"]


def test_shared_tasks_are_those_of_the_current_app() -> None:
    before = celery.shared_task(name="shared-before")(lambda: "before")
    app = make_app(EAGER)
    after = celery.shared_task(name="shared-after")(lambda: "after")

    assert [before.delay().get(), after.delay().get()] == ["before", "after"]
    assert {"shared-before", "shared-after"} <= app.tasks.keys()

    class Other(celery.Task):  # type: ignore[misc] # Celery has no types
        pass

    with pytest.warns(DagsterCeleryWarning, match="The shared task shared-other is not served"):
        celery.shared_task(name="shared-other", base=Other)(lambda: None)
    assert "shared-other" not in app.tasks


def test_an_app_of_celerys_own_is_refused_where_it_cannot_be_served() -> None:
    with pytest.raises(ConfigError, match="zookeeper"):
        create_task(celery.Celery("dagster", broker="zookeeper://host:2181"))
    taken_over = celery.Celery("dagster", broker="memory://")
    create_task(taken_over)
    with pytest.raises(click.ClickException, match="speaks to Celery's workers"):
        taken_over.user_options["preload"]  # what the command celery reads first
    with pytest.raises(ConfigError, match=r"is no app\. Make it by"):
        create_task("my_project.app")  # type: ignore[arg-type] # which a user has no checker for


def test_a_task_of_celerys_own_app_may_be_retried_without_end() -> None:
    app = celery.Celery("dagster", broker="memory://")
    app.task(max_retries=None, name="persist")(print)
    app.task(name="give-up")(print)
    limits = {name: served(app).tasks[name].max_retries for name in ("persist", "give-up")}
    assert limits == {"persist": None, "give-up": 3}


def test_in_memory_tasks_run_where_they_are_sent() -> None:
    app = make_app({"broker": "memory://"})
    add = app.task(name="add")(lambda x, y: x + y)

    assert chain(add.s(1, 1), add.s(2)).delay().get() == 4
    assert app.send_task("add", (2, 3)).get() == 5


def test_no_hook_is_called_around_steps_where_there_are_no_other_tasks() -> None:
    app = make_app({"broker": "memory://"})
    create_task(app)
    assert app.taskiq_broker.middlewares == []

    app.task(name="own")(print)
    assert len(app.taskiq_broker.middlewares) == 1
