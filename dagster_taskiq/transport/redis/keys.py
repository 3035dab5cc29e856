"""Every key on Redis, with what it holds. Each begins with the ``prefix`` of the settings.

============================  ==========  ==========================================================
after ``<prefix>:``           type        what it holds
============================  ==========  ==========================================================
``task:<task>``               hash        the record of a task (``wire.records.Task``); ``try``,
                                          which names the call that has started it; and its
                                          ``progress``, as JSON
``result:<task>``             string      the result of a task, as JSON
``forget-tasks-at``           sorted set  each task, by the time at which its record may be deleted
``workers``                   sorted set  each worker, by the time of its last heartbeat
``worker-bodies``             hash        the record of each worker, as JSON
``notifications:<channel>``   stream      the notifications of a channel
``queues``                    set         each queue that was ever used
``queue:<queue>:<level>``     stream      the messages of a queue with a priority; its group
                                          ``workers`` has the claims
``levels:<queue>``            sorted set  the priorities for which a queue may have a stream
``wakeups:<queue>``           list        an empty entry for each wake-up of a listener of a queue
``delayed:<queue>``           sorted set  the ids of delayed messages, by the time they are due
``delayed``                   hash        priority, task and body of each delayed message, by id
``places``                    hash        queue, priority and message id of each task's message
``clock``                     string      the last message id, which orders all streams
``claim:<claimant>``          string      the answer to the last claim of a listener
``rejected``                  stream      the messages that were set aside, and why
``schedules``                 hash        the schedules that are made while a project runs, as JSON
``firing:<schedule>``         hash        the last firing of a schedule that a scheduler has claimed
============================  ==========  ==========================================================

Only ``notifications:...``, ``claim:...`` and ``firing:...`` expire: a server that makes room
deletes keys that may expire, and losing these delays a run but breaks nothing. All times are those
of the server's clock, in seconds since the epoch; in ``delayed:...`` and in ``firing:...``, in
milliseconds.
"""


class Keys:
    """The names of the keys of one prefix."""

    def __init__(self, prefix: str) -> None:
        """Make the names that are the same for every call."""
        self._prefix = prefix
        self.forget_times = self._key("forget-tasks-at")
        self.workers = self._key("workers")
        self.worker_bodies = self._key("worker-bodies")
        self.places = self._key("places")
        self.rejected = self._key("rejected")
        self.schedules = self._key("schedules")
        #: What every script of the broker gets as its first ``KEYS`` (see ``lua/broker/keys.lua``,
        #: which reads them by their places in this list: append, and change both).
        #: Those that end with a colon are the beginnings of the names of one key for each queue.
        self.of_broker = [
            self._key("queues"),
            self.places,
            self._key("clock"),
            self._key("delayed"),
            self.rejected,
            self._key("queue", ""),
            self._key("levels", ""),
            self._key("wakeups", ""),
            self._key("delayed", ""),
        ]

    def task(self, task_id: str) -> str:
        """Return the key of a task's record; of no id, the beginning of all their names."""
        return self._key("task", task_id)

    def result(self, task_id: str) -> str:
        """Return the key of a task's result; of no id, the beginning of all their names."""
        return self._key("result", task_id)

    def notifications(self, channel: str) -> str:
        """Return the key of a channel's notifications."""
        return self._key("notifications", channel)

    def wakeups(self, queue: str) -> str:
        """Return the key of the wake-ups of a queue's listeners."""
        return self._key("wakeups", queue)

    def levels(self, queue: str) -> str:
        """Return the key of the priorities for which a queue has streams; empty if it has none."""
        return self._key("levels", queue)

    def delayed(self, queue: str) -> str:
        """Return the key of a queue's delayed messages."""
        return self._key("delayed", queue)

    def claim(self, claimant: str) -> str:
        """Return the key of the answer to a listener's last claim."""
        return self._key("claim", claimant)

    def firing(self, schedule: str) -> str:
        """Return the key of the last firing of a schedule that was claimed."""
        return self._key("firing", schedule)

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))
