"""Leaving out the notification that dagster-postgres sends after each event, and nobody hears."""

import sys
from typing import Any

import sqlalchemy as sa

from dagster_taskiq.dagster_internals.part import DagsterPart

#: The module that writes events, the name in it of the channel, and of what reads events instead of
#: listening to that.
_MODULE = "dagster_postgres.event_log.event_log"
_CHANNEL = "CHANNEL_NAME"
_WATCHER = "SqlPollingEventWatcher"


def _check() -> str:
    module = sys.modules.get(_MODULE)
    if module is None:
        return ""
    missing = [name for name in (_CHANNEL, _WATCHER) if not hasattr(module, name)]
    return f"there is no {missing[0]} in {_MODULE}" if missing else ""


PART = DagsterPart(
    name="event notifications",
    touches=f"the statement NOTIFY that {_MODULE} executes after each event (left out)",
    why=(
        "No Dagster listens to it: web server and daemon read new events by asking for them "
        f"({_WATCHER}), since Dagster 0.15. It is a statement of its own after each event, so half "
        "of all round trips of a step, and a lock that all databases of the server share. Only "
        "connections that are kept leave it out, and only this statement."
    ),
    otherwise="Each event is followed by a notification.",
    check=_check,
)


def leave_out(engine: sa.Engine) -> None:
    """Have an engine execute no notifications of events, if Dagster is as expected."""
    if _MODULE not in sys.modules or PART.find_problem():
        return
    notify = f"NOTIFY {getattr(sys.modules[_MODULE], _CHANNEL)},"

    def execute(_cursor: Any, statement: str, _parameters: Any, _context: Any) -> bool | None:
        # SQLAlchemy takes a statement as executed if this is true.
        return statement.startswith(notify) or None

    sa.event.listen(engine, "do_execute", execute)
