"""The pictures of the monitor's page in docs/images/: ``make pictures``.

    python -m compat_tests.monitor.pictures --minutes 15

A fleet of five workers executes launched runs for a while, so that the timeline is full. Then one
of them drains, one is killed, and the page is photographed: in light, in dark, and on a phone.
"""

import argparse
import contextlib
import io
import random
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from compat_tests.checkout import ROOT
from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.fleet import Fleet, open_fleet, running_code_server
from compat_tests.monitor.browser import opened_tab, running_browser
from compat_tests.monitors import running_monitor
from compat_tests.servers import own_redis
from compat_tests.workers import WorkerProcess
from dagster_taskiq.settings.settings import Settings

MODULE = "compat_tests.monitor.pictures_jobs"
#: The workers, by their names, with queues and slots.
WORKERS = {
    "etl-1": ("dagster,mail", 4),
    "etl-2": ("dagster", 4),
    "etl-3": ("dagster", 4),
    "etl-4": ("dagster", 2),
    "gpu-1": ("gpu", 1),
}
#: The jobs, and how often one of each is launched in proportion.
JOBS = {"nightly_warehouse": 4, "ship_parcels": 3, "train_forecast": 2}
#: How many runs are under way at once.
RUNS_AT_ONCE = 10
#: How many colours a picture has: those of the page with the edges of its letters, in a small file.
COLOURS = 255
DAGSTER_URL = "http://dagster.internal:3000"


@contextlib.contextmanager
def busy_fleet(directory: Path) -> Iterator[tuple[Fleet, dict[str, WorkerProcess]]]:
    """Start servers and workers of one fleet."""
    with ExitStack() as stack:
        server = stack.enter_context(own_redis())
        settings = Settings(broker=server.url)
        arguments = ("--module-name", MODULE, "--working-directory", str(ROOT))
        code_server = stack.enter_context(running_code_server(directory, *arguments))
        fleet = stack.enter_context(open_fleet(directory, settings, code_server))
        workers = {}
        for name, (queues, slots) in WORKERS.items():
            worker = WorkerProcess(settings, directory, name, "-q", queues, "-c", str(slots))
            stack.callback(worker.end)
            workers[name] = worker
        for worker in workers.values():
            worker.wait_until_ready()
        yield fleet, workers


def keep_busy(fleet: Fleet, scratch: Scratch, seconds: float) -> None:
    """Launch runs for some time, so that there are always some."""
    dice = random.Random(20)
    under_way: list[Outcome] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        under_way = [each for each in under_way if not each.run.is_finished]
        if len(under_way) < RUNS_AT_ONCE:
            (job,) = dice.choices([*JOBS], [*JOBS.values()])
            under_way.append(fleet.launch(job, scratch))
        time.sleep(1)


def take(page: Page, name: str, height: int) -> None:
    """Take a picture of the upper part of the page, into docs/images/."""
    taken = page.screenshot(clip={**page.viewport_size, "x": 0, "y": 0, "height": height})
    picture = Image.open(io.BytesIO(taken)).convert("RGB")
    # By coverage, and then to the next one: large areas and the few red bars keep their colours.
    small = picture.quantize(
        COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
    )
    path = ROOT / "docs" / "images" / name
    small.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="how long the fleet is busy")
    minutes = parser.parse_args().minutes
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fleet, workers = stack.enter_context(busy_fleet(directory))
        scratch = Scratch(directory)
        options = ("--allow-actions", "--dagster-url", DAGSTER_URL)
        monitor = stack.enter_context(running_monitor(fleet.settings, directory, *options))
        browser = stack.enter_context(running_browser())
        views = {
            "light": {"viewport": {"width": 1360, "height": 1440}, "color_scheme": "light"},
            "dark": {"viewport": {"width": 1360, "height": 1440}, "color_scheme": "dark"},
            "phone": {"viewport": {"width": 380, "height": 1440}, "color_scheme": "light"},
        }
        pages = {}
        for name, view in views.items():
            tab = stack.enter_context(opened_tab(browser, directory, **view))
            # A monitor has what ends listed only while somebody looks at its page.
            tab.page.goto(monitor.url)
            pages[name] = tab.page
        fleet.launch("archive_old_orders", scratch)
        keep_busy(fleet, scratch, 60 * minutes)
        take(pages["light"], "monitor-light.png", 1440)
        workers["etl-4"].signal(signal.SIGKILL)
        keep_busy(fleet, scratch, fleet.settings.lease + 20)
        # A burst, so that the worker that drains has something to finish.
        for _ in range(6):
            fleet.launch("ship_parcels", scratch)
        drained = pages["dark"].locator("#workers .worker").filter(has_text="etl-3")
        drained.filter(has_text=re.compile("[2-4] of 4 slots")).wait_for(timeout=120_000)
        workers["etl-3"].signal(signal.SIGTERM)
        drained.filter(has_text="draining").wait_for()
        take(pages["dark"], "monitor-dark.png", 1440)
        take(pages["phone"], "monitor-phone.png", 1440)


if __name__ == "__main__":
    main()
