"""The page of the monitor in a real browser: a real monitor, a real broker, real workers."""

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from dagster import DagsterInstance
from playwright.sync_api import Browser, Locator, Page, expect

from compat_tests.conftest import make_settings
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.monitor.browser import Tab, opened_tab, running_browser
from compat_tests.monitor.page_jobs import HOSTILE, breakdown, parcels
from compat_tests.monitors import MonitorProcess, running_monitor
from compat_tests.sending import open_sender
from compat_tests.servers import own_redis
from compat_tests.waiting import PATIENCE_SECONDS
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.settings.settings import Settings

#: Where Dagster's UI would be; nobody follows the links.
DAGSTER_URL = "http://dagster.example:3000"
TOKEN = "s3cr3t-w0rd"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=1000 * PATIENCE_SECONDS)
    with running_browser() as browser:
        yield browser


@pytest.fixture
def house(tmp_path: Path, instance: DagsterInstance, request: pytest.FixtureRequest) -> House:
    """What it shows is the same on every broker."""
    return House(make_settings("redis", tmp_path, request), instance)


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    directory = tmp_path / "notes"
    directory.mkdir()
    return Scratch(directory)


class Opened:
    """A monitor, and its page in the browser."""

    def __init__(self, monitor: MonitorProcess, tab: Tab) -> None:
        self.monitor = monitor
        self.tab = tab

    @property
    def page(self) -> Page:
        return self.tab.page

    def worker(self, name: str) -> Locator:
        return self.page.locator("#workers .worker").filter(
            has=self.page.get_by_role("heading", name=name, exact=True)
        )

    def running(self, text: str) -> Locator:
        return self.page.locator("#running tbody tr").filter(has_text=text)

    def ended(self, text: str) -> Locator:
        return self.page.locator("#ended tbody tr").filter(has_text=text)

    def confirm(self, verb: str, *words: str) -> None:
        """Check that the dialog has these words, and do what it asks about."""
        dialog = self.page.get_by_role("dialog")
        for each in words:
            expect(dialog).to_contain_text(each)
        dialog.get_by_role("button", name=verb, exact=True).click()


class OpenPage:
    """Starts monitors, and opens their pages; all of it ends with the test."""

    def __init__(self, browser: Browser, directory: Path, stack: ExitStack) -> None:
        self._browser = browser
        self._directory = directory
        self._stack = stack

    def __call__(self, settings: Settings, *arguments: str) -> Opened:
        monitor = self._stack.enter_context(running_monitor(settings, self._directory, *arguments))
        tab = self._stack.enter_context(opened_tab(self._browser, self._directory))
        tab.page.goto(monitor.url)
        return Opened(monitor, tab)


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[OpenPage]:
    with ExitStack() as stack:
        yield OpenPage(browser, tmp_path, stack)


@pytest.fixture
def worker(house: House, tmp_path: Path) -> Iterator[WorkerProcess]:
    with running_worker(house.settings, tmp_path, "-c", "2") as worker:
        yield worker


def test_a_step_is_shown_as_it_runs_and_then_among_what_has_ended(
    house: House, worker: WorkerProcess, scratch: Scratch, open_page: OpenPage
) -> None:
    opened = open_page(house.settings, "--dagster-url", DAGSTER_URL)
    page = opened.page
    expect(page.locator("#link")).to_have_text("Live")
    expect(opened.worker("w1").locator(".cells")).to_have_attribute(
        "aria-label", "0 of 2 slots busy"
    )
    with house.started(parcels, scratch) as run:
        scratch.wait_for("began")
        row = opened.running("parcels · weigh")
        expect(row).to_be_visible()
        expect(row).to_contain_text("w1")
        expect(opened.worker("w1").locator(".cells")).to_have_attribute(
            "aria-label", "1 of 2 slots busy: 1 step"
        )
        link = urlsplit(row.get_by_role("link").get_attribute("href") or "")
        assert link.geturl().startswith(f"{DAGSTER_URL}/runs/{run.outcome.run_id}?")
        assert parse_qs(link.query) == {"selection": ["weigh"], "logs": ["step:weigh"]}
        # It was not told that it may.
        for name in ("Revoke", "Drain", "Terminate"):
            expect(page.get_by_role("button", name=name)).to_have_count(0)
        scratch.note("go")
        run.wait()
    for step in ("weigh", "label"):
        expect(opened.ended(f"parcels · {step}")).to_contain_text("succeeded")
    expect(opened.running("parcels")).to_have_count(0)

    page.get_by_role("searchbox").fill("LABEL w1")
    expect(opened.ended("parcels · weigh")).to_have_count(0)
    expect(opened.ended("parcels · label")).to_have_count(1)
    page.get_by_role("searchbox").fill("no such step")
    expect(page.locator("#ended .empty")).to_have_text(
        "Nothing of what has ended matches the filter."
    )
    page.get_by_role("searchbox").fill("")

    # The same by the keyboard, in the timeline.
    page.get_by_role("img", name=re.compile("^Timeline: 2 tasks")).press("End")
    expect(page.locator("#timeline .tip")).to_contain_text("parcels · label")
    expect(page.locator("#timeline .tip")).to_contain_text("succeeded in")


def test_a_worker_that_is_killed_turns_lost_and_then_goes(
    house: House, worker: WorkerProcess, scratch: Scratch, open_page: OpenPage, tmp_path: Path
) -> None:
    # Long enough to see it, whatever else this machine does.
    opened = open_page(house.settings, "--show-lost", "3")
    with house.started(parcels, scratch):
        expect(opened.running("parcels · weigh")).to_be_visible()
        worker.signal(signal.SIGKILL)
        worker.wait()
        lost = opened.worker("w1").and_(opened.page.locator("[data-state=lost]"))
        expect(lost).to_contain_text("silent for")
        expect(opened.ended("parcels · weigh")).to_contain_text("lost")
        expect(opened.worker("w1")).to_have_count(0)
    advice = opened.page.locator("#workers .empty")
    expect(advice).to_contain_text("dagster-taskiq worker start")


def test_buttons_ask_first_and_then_revoke_a_step_and_drain_a_worker(
    house: House, worker: WorkerProcess, scratch: Scratch, open_page: OpenPage
) -> None:
    opened = open_page(house.settings, "--allow-actions")
    page = opened.page
    with house.started(parcels, scratch) as run:
        row = opened.running("parcels · weigh")
        row.get_by_role("button", name="Revoke parcels · weigh").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(row).to_be_visible()
        row.get_by_role("button", name="Revoke parcels · weigh").click()
        opened.confirm("Revoke", "Revoke parcels · weigh?", "SIGTERM", run.outcome.run_id[:8])
        expect(page.locator("#answers")).not_to_be_empty()
        expect(opened.ended("parcels · weigh")).to_contain_text("revoked")
        run.wait()
    assert scratch.count("weighed") == 0

    opened.worker("w1").get_by_role("button", name="Drain w1").click()
    opened.confirm("Drain", "Drain w1?", "takes no new tasks")
    assert worker.wait() == 0
    expect(opened.worker("w1")).to_have_count(0)


def test_the_page_asks_for_the_token(house: House, browser: Browser, tmp_path: Path) -> None:
    with running_monitor(house.settings, tmp_path, token=TOKEN) as monitor:
        for credentials in (None, {"username": "me", "password": "wrong"}):
            with opened_tab(browser, tmp_path, http_credentials=credentials) as tab:
                for path in ("/", "/main.js", "/events", "/api/fleet"):
                    answer = tab.page.request.get(f"{monitor.url}{path}")
                    assert answer.status == 401
                    # With this, a browser asks whoever sits there.
                    assert answer.headers["www-authenticate"].startswith("Basic ")
        right = {"username": "me", "password": TOKEN}
        with opened_tab(browser, tmp_path, http_credentials=right) as tab:
            tab.page.goto(monitor.url)
            expect(tab.page.locator("#link")).to_have_text("Live")
            # Another token, while the page is open.
            monitor.end()
            expect(tab.page.locator("#trouble")).to_contain_text("No connection to the monitor.")
            with running_monitor(house.settings, tmp_path, token="another", port=monitor.port):
                expect(tab.page.locator("#trouble")).to_contain_text("does not let you in")
                expect(tab.page.get_by_role("button", name="Ask again")).to_be_visible()


def test_what_the_fleet_calls_itself_is_shown_as_text(
    house: House, scratch: Scratch, open_page: OpenPage, tmp_path: Path
) -> None:
    name, queue = "<img src=x onerror=alert(3)>", "<b>bold<!--"
    with running_worker(
        house.settings, tmp_path, "-c", "1", "-q", f"{house.settings.queue},{queue}", name=name
    ):
        opened = open_page(house.settings, "--allow-actions")
        with house.started(breakdown, scratch) as run:
            run.wait()
        page = opened.page
        row = opened.ended("breakdown · break_down")
        expect(row).to_contain_text("failed")
        row.get_by_text("Why").click()
        expect(row.locator(".error")).to_contain_text(HOSTILE)
        expect(opened.worker(name)).to_contain_text(queue)
        opened.worker(name).get_by_role("button", name=f"Terminate {name}").click()
        expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text(f"Terminate {name}?")
        expect(page.locator("dialog img")).to_have_count(0)
        page.keyboard.press("Escape")

        with open_sender(house.settings) as sender:
            sender.send("add", 1, 2, queue_name="nobody's")
            sender.call(sender.broker.put, "unreadable", house.settings.queue, 0, HOSTILE.encode())
        expect(page.locator("#queues code")).to_have_text(
            "dagster-taskiq worker start -q 'nobody'\\''s'"
        )
        page.get_by_role("button", name="Look at them").click()
        expect(page.get_by_role("dialog")).to_contain_text(HOSTILE)
        expect(page.locator("dialog img")).to_have_count(0)
        page.get_by_role("dialog").get_by_role("checkbox").check()
        page.get_by_role("button", name="Requeue", exact=True).click()
        opened.confirm("Yes, requeue 1 message")
        expect(page.locator("#answers p")).to_have_count(1)
        # It is as hostile as before, and set aside again.
        page.get_by_role("button", name="Look at them").click()
        page.get_by_role("dialog").get_by_role("checkbox").check()
        page.get_by_role("button", name="Delete", exact=True).click()
        opened.confirm("Yes, delete 1 message for good")
        expect(page.get_by_role("button", name="Look at them")).to_have_count(0)

        # All of it fits on a phone.
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        expect(page.locator("#fleet b, #fleet img, #fleet script")).to_have_count(0)
    # That nothing of it has run: opened_tab checks.


def test_a_server_or_the_monitor_may_go_away_and_come_back(
    instance: DagsterInstance, scratch: Scratch, open_page: OpenPage, tmp_path: Path
) -> None:
    with own_redis() as server:
        house = House(Settings(broker=server.url, heartbeat_interval=0.5, lease=4.0), instance)
        with running_worker(house.settings, tmp_path, "-c", "1"):
            opened = open_page(house.settings)
            trouble = opened.page.locator("#trouble")
            with house.started(breakdown, scratch) as run:
                run.wait()
            expect(opened.ended("breakdown · break_down")).to_contain_text("failed")
            expect(trouble).to_be_hidden()

            server.stop()
            expect(trouble).to_contain_text("The monitor cannot look at the fleet.")
            expect(trouble).to_contain_text("What you see is from")
            expect(opened.page.locator("#link")).to_have_text("Not up to date")
            expect(opened.worker("w1")).to_be_visible()
            server.start()
            expect(trouble).to_be_hidden()
            expect(opened.worker("w1")).to_be_visible()

            port = opened.monitor.port
            opened.monitor.end()
            expect(trouble).to_contain_text("No connection to the monitor.")
            expect(opened.page.locator("#link")).to_have_text("Connection lost")
            with running_monitor(house.settings, tmp_path, port=port):
                expect(opened.page.locator("#link")).to_have_text("Live")
                expect(trouble).to_be_hidden()
                expect(opened.worker("w1")).to_be_visible()
                # The new monitor does not know it, and the page still does.
                expect(opened.ended("breakdown · break_down")).to_contain_text("failed")
            assert opened.tab.failed_requests
