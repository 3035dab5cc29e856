"""``top`` itself: it looks at the fleet, draws what there is, and does what keys ask for."""

import asyncio
import logging
import signal
import time
from contextlib import ExitStack

from dagster_taskiq.monitor.top.screen import Size, draw
from dagster_taskiq.monitor.top.state import TopState
from dagster_taskiq.monitor.top.terminal import Terminal
from dagster_taskiq.monitor.watcher import Watcher
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.background import look_at

#: The screen is drawn anew at least this often, in seconds: it has times that go on.
DRAW_SECONDS = 1.0
#: How long the connections have to be closed in the end, in seconds: a server may be away.
CLOSE_SECONDS = 2.0


def run_top(settings: Settings) -> None:
    """Show the fleet until the user has seen enough, or SIGINT, SIGTERM or SIGHUP comes.

    Raises:
        ConfigError: there is no terminal, or the settings cannot work.
    """
    terminal = Terminal()
    # What is wrong is said on the screen; a line of a log would be somewhere in it.
    logging.getLogger().addHandler(logging.NullHandler())
    logging.captureWarnings(True)
    asyncio.run(_Top(terminal, Watcher(settings)).run())


class _Top:
    def __init__(self, terminal: Terminal, watcher: Watcher) -> None:
        self._terminal = terminal
        self._watcher = watcher
        self._state = TopState()
        #: Set when the screen is to be drawn anew.
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Draw until the user quits."""
        looking = asyncio.ensure_future(self._watcher.run())
        looking.add_done_callback(lambda _: self._press(""))
        ticking = asyncio.ensure_future(self._tick())
        try:
            with ExitStack() as stack:
                stack.enter_context(self._terminal.taken())
                self._handle_signals(stack)
                stack.enter_context(self._terminal.keys(self._press))
                async with self._watcher.watched():
                    await self._draw_until_quit()
            if looking.done():
                looking.result()
        finally:
            for each in (looking, ticking):
                each.cancel()
                each.add_done_callback(look_at)
            await asyncio.wait({looking, ticking}, timeout=CLOSE_SECONDS)

    async def _draw_until_quit(self) -> None:
        view, now = self._watcher.fleet.view(), time.time()
        while not self._state.has_quit:
            if not self._state.is_paused:
                view, now = self._watcher.fleet.view(), time.time()
            size = Size(*self._terminal.size, is_ascii=self._terminal.is_ascii)
            self._terminal.draw(draw(view, self._state, size, now))
            await self._changed.wait()
            self._changed.clear()

    async def _tick(self) -> None:
        while True:
            await self._watcher.wait_for_look(self._watcher.looks, DRAW_SECONDS)
            self._changed.set()

    def _handle_signals(self, stack: ExitStack) -> None:
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGWINCH: self._changed.set,
            signal.SIGTSTP: self._suspend,
            **dict.fromkeys(
                (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), lambda: self._press("")
            ),
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
            stack.callback(loop.remove_signal_handler, number)

    def _suspend(self) -> None:
        self._terminal.suspend()
        self._changed.set()

    def _press(self, key: str) -> None:
        self._state.press(key)
        self._changed.set()
