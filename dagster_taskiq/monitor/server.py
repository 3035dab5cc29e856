"""The process of ``dagster-taskiq monitor``: it looks at the fleet, and serves what it sees."""

import asyncio
import logging
import signal
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.monitor.access import TOKEN_ENV, Access, is_loopback, read_token
from dagster_taskiq.monitor.actions import Actions
from dagster_taskiq.monitor.ended_list import LISTED_SECONDS
from dagster_taskiq.monitor.watcher import Watcher
from dagster_taskiq.monitor.web import MonitorWeb
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.transport.background import look_at
from dagster_taskiq.version import __version__

logger = logging.getLogger(__name__)
#: What aiohttp logs with.
web_logger = logging.getLogger("aiohttp.server")

#: How long requests have to end when the monitor ends, in seconds.
SHUTDOWN_SECONDS = 2.0


@dataclass(frozen=True)
class MonitorOptions:
    """The options of a monitor."""

    host: str = "127.0.0.1"
    port: int = 9580
    #: Where Dagster's UI is, for links to runs; empty for nowhere.
    dagster_url: str = ""
    #: Whether workers may be ended and tasks revoked by requests.
    allow_actions: bool = False
    #: Whether ``/metrics`` has the names of celery-exporter and Flower too.
    celery_names: bool = False
    #: For how long a lost worker is shown, in seconds.
    show_lost: float = LISTED_SECONDS


def run_monitor(settings: Settings, options: MonitorOptions) -> None:
    """Look at a fleet and serve what there is to see, until SIGTERM or SIGINT comes.

    A broker or backend that does not answer is waited for, and the page says so.

    Raises:
        ConfigError: the settings cannot work, or the port cannot be listened on; or requests from
            other machines could do harm without showing a token.
    """
    token = read_token()
    _check_access(options, token)
    watcher = Watcher(settings, show_lost=options.show_lost)
    app = web.Application()
    Access(options.host, token).add_to(app)
    MonitorWeb(watcher, _for_page(options), celery_names=options.celery_names).add_to(app)
    if options.allow_actions:
        Actions(watcher).add_to(app)
    try:
        import uvloop  # noqa: PLC0415 - it is not there on every platform
    except ImportError:
        asyncio.run(_serve(app, watcher, options))
    else:
        uvloop.run(_serve(app, watcher, options))


def _check_access(options: MonitorOptions, token: str | None) -> None:
    if is_loopback(options.host) or token is not None:
        return
    if options.allow_actions:
        raise ConfigError(
            f"With --host {options.host} and --allow-actions, everybody who reaches this machine "
            f"could end workers. Set the variable {TOKEN_ENV} to a secret, or leave out "
            "--allow-actions."
        )
    logger.warning(
        "Everybody who reaches %s may see the names of jobs, steps and workers. For a secret that "
        "is asked for, set the variable %s.",
        options.host,
        TOKEN_ENV,
    )


def _for_page(options: MonitorOptions) -> dict[str, object]:
    return {
        "dagster_url": options.dagster_url.rstrip("/"),
        "actions": options.allow_actions,
        "release": __version__,
    }


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Return whether a record of aiohttp is none of requests that are no HTTP, or are too long.

    They are answered 400, and anybody can send any number of them.
    """
    error = record.exc_info[1] if record.exc_info else None
    # The second one is that of a body which is not as its headers say; aiohttp may read the rest of
    # it when the request has been answered.
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError))


async def _serve(app: web.Application, watcher: Watcher, options: MonitorOptions) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    web_logger.addFilter(_is_our_fault)
    runner = web.AppRunner(
        app, access_log=None, logger=web_logger, shutdown_timeout=SHUTDOWN_SECONDS
    )
    await runner.setup()
    looking = asyncio.ensure_future(watcher.run())
    looking.add_done_callback(lambda _: stop.set())
    try:
        try:
            await web.TCPSite(runner, options.host, options.port).start()
        except OSError as error:
            raise ConfigError(
                f"Cannot listen on {options.host}, port {options.port}: {error.strerror}. Name "
                "another one with --port or --host."
            ) from None
        settings = watcher.broker.settings
        logger.info(
            "The monitor of %s serves on http://%s:%d/",
            redact(settings.broker),
            f"[{options.host}]" if ":" in options.host else options.host,
            options.port,
        )
        await stop.wait()
        if looking.done():
            looking.result()
    finally:
        await runner.cleanup()
        looking.cancel()
        looking.add_done_callback(look_at)
        await asyncio.wait({looking})
