"""The names of all queues and exchanges of this package on a RabbitMQ, and what each is for.

Each name begins with ``<prefix>:`` (the setting ``prefix``, by default ``dagster-taskiq``). What is
marked *exclusive* belongs to one connection and is deleted with it; what is marked *expires* is
deleted by the server when it has not been used for a while. All else stays until it is deleted.

Queues:

=============================  =====================================================================
``queue:<queue>``              Messages that wait for a worker, in order of priority. A run queue is
                               ``queue:<queue>:runs``.
``delay:<level>:<queue>``      Messages of that queue that are delayed, for ``2**level`` units of
                               their delay (see :mod:`~dagster_taskiq.transport.rabbitmq.delays`).
``rejected``                   The last thousand messages that were set aside: unreadable, or
                               delivered too often. Nothing consumes them.
``record:<name>``              One message: a record of tasks, workers, used queues or delivery
                               attempts (see :mod:`~dagster_taskiq.transport.rabbitmq.records`).
``records-lock``               Empty, exclusive: held by the process that creates the records.
``ended:<name>``               Tasks of users' own that have ended, with their results, some in each
                               message, which expire (see
                               :mod:`~dagster_taskiq.transport.rabbitmq.ended_tasks`).
``progress:<task>``            One message: the progress that a task has set. Expires.
``retained:<channel>``         The last notifications of a channel, for processes that begin to read
                               it later. Expires.
``inbox:<id>``                 The notifications of all channels that one process reads. Exclusive.
``wakeups:<consumer>:<id>``    The wake-ups of one listener. Exclusive.
=============================  =====================================================================

Exchanges:

=============================  =====================================================================
``notifications``              Direct; the routing key is a channel. Leads to the inbox of each
                               process that reads the channel, and to ``retained:<channel>``.
``wakeups``                    Direct; the routing key is a queue. Leads to the listeners that serve
                               the queue.
``delay:<level>``              Topic; looks at one bit of a delay, which is the routing key.
``delay:due``                  Topic; leads what is due to its queue.
``records``                    Nothing is published to it. If it exists, so do all records.
=============================  =====================================================================
"""

import hashlib
import uuid
from dataclasses import dataclass

from pamqp.constants import DOMAIN_REGEX

from dagster_taskiq.errors import ConfigError

#: The longest name of a queue or routing key, in bytes of UTF-8, by the protocol.
NAME_BYTES = 255
#: The longest name of an exchange that pamqp, which encodes the protocol, accepts.
EXCHANGE_NAME_BYTES = 127
#: The longest text, such as the id of a task, that becomes a part of a name as it is.
PART_BYTES = 120
#: The names of queues and exchanges that pamqp accepts.
NAME = DOMAIN_REGEX["queue-name"]


@dataclass(frozen=True)
class Names:
    """The names under one prefix; the table above has the meaning of each."""

    prefix: str

    def queue(self, queue: str) -> str:
        """Return the name of the queue in which the messages of ``queue`` wait."""
        return f"{self.prefix}:queue:{queue}"

    @property
    def rejected(self) -> str:
        """The queue of the messages that were set aside."""
        return f"{self.prefix}:rejected"

    @property
    def delays(self) -> str:
        """How the names of all queues and exchanges for delays begin."""
        return f"{self.prefix}:delay:"

    def delay_queue(self, level: int, queue: str) -> str:
        """Return the name of the queue in which messages of ``queue`` spend one bit of a delay."""
        return f"{self.delays}{level}:{queue}"

    def delay_exchange(self, level: int) -> str:
        """Return the name of the exchange that looks at one bit of a delay."""
        return f"{self.delays}{level}"

    @property
    def due_exchange(self) -> str:
        """The exchange behind that of the lowest bit."""
        return f"{self.delays}due"

    def record(self, name: str) -> str:
        """Return the name of the queue that holds a record."""
        return f"{self.prefix}:record:{name}"

    @property
    def records_exchange(self) -> str:
        """The exchange that exists once all records do."""
        return f"{self.prefix}:records"

    @property
    def records_lock(self) -> str:
        """The queue whose owner creates the records."""
        return f"{self.prefix}:records-lock"

    def ended(self, record: str) -> str:
        """Return the name of the queue with the ended tasks that a record has no room for."""
        return f"{self.prefix}:ended:{record}"

    def progress(self, task_id: str) -> str:
        """Return the name of the queue with the progress of a task."""
        return f"{self.prefix}:progress:{name_part(task_id)}"

    @property
    def notifications_exchange(self) -> str:
        """The exchange to which all notifications are published."""
        return f"{self.prefix}:notifications"

    def retained(self, key: str) -> str:
        """Return the name of the queue that keeps notifications of a channel.

        Args:
            key: the channel's routing key, which is the :func:`name_part` of its name.
        """
        return f"{self.prefix}:retained:{key}"

    def new_inbox(self) -> str:
        """Return a name for the queue of one process's notifications, another one at each call.

        The name used before stays taken until the server has noticed that its connection is lost.
        """
        return f"{self.prefix}:inbox:{uuid.uuid4().hex}"

    @property
    def wakeups_exchange(self) -> str:
        """The exchange to which wake-ups are published."""
        return f"{self.prefix}:wakeups"

    def new_wakeups(self, consumer: str) -> str:
        """Return a name for the queue of one listener's wake-ups; see :meth:`new_inbox`."""
        return f"{self.prefix}:wakeups:{consumer}:{uuid.uuid4().hex}"


def name_part(text: str) -> str:
    """Return what stands for a text in a name: the text, or a digest if it is too long or has a
    character that is not allowed.
    """
    if len(text) <= PART_BYTES and NAME.fullmatch(text):
        return text
    return hashlib.sha256(text.encode()).hexdigest()


def check_queue_name(name: str) -> None:
    """Refuse a name of a queue that the protocol, or pamqp, does not allow.

    Raises:
        ConfigError: it is too long, or has a character that is not allowed.
    """
    _check("queue", name, NAME_BYTES)


def check_exchange_name(name: str) -> None:
    """Refuse a name of an exchange; see :func:`check_queue_name`."""
    _check("exchange", name, EXCHANGE_NAME_BYTES)


def _check(kind: str, name: str, limit: int) -> None:
    if len(name.encode()) > limit:
        raise ConfigError(
            f"The name of the {kind} {name!r} is longer than the {limit} bytes that RabbitMQ "
            "allows. Choose a shorter queue name or prefix."
        )
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"The name of the {kind} {name!r} has a character that is not allowed on RabbitMQ. "
            "Choose a queue name and prefix of letters and digits of ASCII, spaces and -_.:@#,/+."
        )
