"""The app that signatures and tasks belong to that name none: the last one made, as in Celery."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dagster_taskiq.client import Client
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.wire.task_request import TaskRequest


class AppTask(Protocol):
    """What is used of a task of an app; see :class:`dagster_celery._celery_app.task.Task`."""

    name: str
    acks_late: bool | None
    ignore_result: bool | None
    autoretry_for: Sequence[type[BaseException]]
    dont_autoretry_for: Sequence[type[BaseException]]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    override_max_retries: int | None
    is_bound: bool

    @property
    def run(self) -> Callable[..., Any]:
        """Its function, without the task as its first argument."""

    @property
    def before_start(self) -> Callable[..., Any]:
        """Called before its function."""

    @property
    def on_success(self) -> Callable[..., Any]:
        """Called when its function has returned a value."""

    @property
    def on_failure(self) -> Callable[..., Any]:
        """Called when it has failed."""

    @property
    def on_retry(self) -> Callable[..., Any]:
        """Called when it is to be executed again."""

    @property
    def after_return(self) -> Callable[..., Any]:
        """Called last."""

    @property
    def app(self) -> "SendingApp":
        """The app that sends it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run its function in this process, and return its value."""

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send it, and return its result."""

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run it in this process, and return its result."""

    def retry(self, *, exc: BaseException | None = None, **options: Any) -> BaseException:
        """Have it executed again."""

    def send_back(self) -> None:
        """Put it back to its queue."""


class SendingApp(Protocol):
    """What tasks and signatures use of their app."""

    @property
    def tasks(self) -> Mapping[str, AppTask]:
        """The app's tasks by their names."""

    @property
    def is_eager(self) -> bool:
        """Whether tasks run in the process that sends them, at once."""

    @property
    def propagates_eagerly(self) -> bool:
        """Whether the exceptions of tasks that run eagerly are raised where they are called."""

    @property
    def ignores_results(self) -> bool:
        """Whether the values of tasks are dropped, unless they or their callers say otherwise."""

    @property
    def acknowledges_late(self) -> bool:
        """Whether ``Reject(requeue=True)`` puts tasks back, unless they say otherwise."""

    @property
    def client(self) -> Client:
        """The client of broker and backend, connected."""

    def annotate(self, task: AppTask) -> None:
        """Give a task the attributes that ``task_annotations`` have for it."""

    def queue_for(self, name: str, options: Mapping[str, Any]) -> str:
        """Return the queue of a task."""

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send a task by its name."""

    def request(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> TaskRequest:
        """Return the request that sending a task would send."""

    def AsyncResult(self, task_id: str) -> Any:
        """Return the result of a task that was sent before."""


_current: SendingApp | None = None


def set_current_app(app: SendingApp) -> None:
    """Make an app the current one."""
    global _current  # noqa: PLW0603 - it is what current_app() returns
    _current = app


def has_current_app() -> bool:
    """Return whether this process has made an app that is the current one."""
    return _current is not None


def current_app() -> SendingApp:
    """Return the current app.

    Raises:
        ConfigError: this process has made none.
    """
    if _current is None:
        raise ConfigError(
            "There is no app in this process. Import the module that makes yours, or write "
            "`app = make_app()` with dagster_celery.make_app."
        )
    return _current
