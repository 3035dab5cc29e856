"""The process of ``dagster-taskiq scheduler start``: signals, and taskiq's own loop."""

import asyncio
import logging
import signal

from taskiq.cli.scheduler.args import SchedulerArgs
from taskiq.cli.scheduler.run import run_scheduler

from dagster_taskiq.schedules.scheduler import Scheduler

logger = logging.getLogger(__name__)

#: Seconds that the scheduler has to close its connections when it is to end.
END_SECONDS = 0.8


def run(scheduler: Scheduler, update_interval: int) -> None:
    """Run a scheduler in this process until it receives SIGTERM or SIGINT.

    Args:
        scheduler: the scheduler.
        update_interval: seconds between two looks for schedules that were made meanwhile.

    Raises:
        ConfigError: the settings cannot work, or a module cannot be imported.
    """
    asyncio.run(_run(scheduler, update_interval))


async def _run(scheduler: Scheduler, update_interval: int) -> None:
    # What it says of each firing says the scheduler as well, and of one that another one sends too.
    logging.getLogger("taskiq.cli.scheduler.run").setLevel(logging.ERROR)
    logging.getLogger("taskiq.scheduler.scheduler").setLevel(logging.WARNING)
    args = SchedulerArgs(scheduler, [], configure_logging=False, update_interval=update_interval)
    running = asyncio.ensure_future(run_scheduler(args))
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    waiting = asyncio.ensure_future(ending.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        running.result()
    running.cancel()
    await asyncio.wait({running}, timeout=END_SECONDS)
