"""The model of the fleet: what is shown and counted after each answer of the servers."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dagster_taskiq.monitor.ended_list import LISTED_SECONDS, LISTED_TASKS
from dagster_taskiq.monitor.fleet import Fleet
from dagster_taskiq.monitor.snapshot import FleetView, has_changed
from dagster_taskiq.monitor.totals import Group
from dagster_taskiq.wire.queues import QueueDepth
from dagster_taskiq.wire.records import Running, Worker
from dagster_taskiq.wire.task_counts import BOUNDS, EndedTask, Outcome, TaskCounts, Times

INTERVAL = 5.0
LEASE = 30.0
#: The age of a record whose worker is silent for longer than its lease.
SILENT = LEASE + 1
STEP = "execute_plan"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Looks:
    """A fleet, and looks at it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.fleet = Fleet("redis://a", "redis://a", INTERVAL, clock=self.clock)

    def look(self, *workers: Worker, after: float = INTERVAL) -> FleetView:
        self.clock.now += after
        self.fleet.note_workers(workers)
        return self.fleet.view()

    def started(self) -> int:
        return sum(each.started for each in self.fleet.totals.of())

    def ended(self, outcome: Outcome) -> int:
        return sum(each.ended.get(outcome, 0) for each in self.fleet.totals.of())


def worker(name: str = "w1", **changes: Any) -> Worker:
    record = Worker(f"id-{name}", name, "host", 7, ("dagster",), 2, "1", LEASE, counts=())
    return replace(record, **{"uptime": 100.0, **changes})


def counts(started: int, job: str = "daily", queue: str = "dagster", **ended: int) -> TaskCounts:
    return TaskCounts(
        queue, STEP, job, started, {Outcome[name.upper()]: n for name, n in ended.items()}
    )


def running(id_: str = "t1", **changes: Any) -> Running:
    record = Running(id_, STEP, "run", "step", 9, 3.0, queue="dagster", job="daily")
    return replace(record, **changes)


def ended_task(id_: str, at: float, outcome: Outcome = Outcome.SUCCEEDED) -> EndedTask:
    return EndedTask(id_, STEP, "dagster", outcome, at - 1, at, "daily", "run", "step")


def test_what_a_worker_had_run_before_the_first_look_is_not_counted() -> None:
    looks = Looks()
    looks.look(worker(counts=(counts(10, succeeded=9),)))
    assert looks.started() == 0
    assert [each.job for each in looks.fleet.totals.of()] == ["daily"], "it is there, with zeros"
    looks.look(worker(uptime=105.0, counts=(counts(12, succeeded=10),)))
    assert (looks.started(), looks.ended(Outcome.SUCCEEDED)) == (2, 1)


def test_all_that_a_worker_has_run_that_appears_later_is_counted() -> None:
    looks = Looks()
    looks.look()
    looks.look(worker(uptime=4.0, counts=(counts(3, failed=1),)))
    assert (looks.started(), looks.ended(Outcome.FAILED)) == (3, 1)


def test_a_worker_whose_record_was_away_is_not_counted_again() -> None:
    looks = Looks()
    looks.look(worker(counts=(counts(10),)))
    looks.look()
    looks.look(worker(uptime=110.0, counts=(counts(11),)))
    assert looks.started() == 1


def test_an_old_worker_that_was_not_there_at_the_first_look_counts_from_then() -> None:
    looks = Looks()
    looks.look()
    looks.look(worker(uptime=5000.0, counts=(counts(10),)))
    looks.look(worker(uptime=5005.0, counts=(counts(12),)))
    assert looks.started() == 2


def test_an_older_record_than_the_last_changes_nothing() -> None:
    looks = Looks()
    looks.look(worker(uptime=100.0, counts=(counts(0),)))
    looks.look(worker(uptime=110.0, counts=(counts(5),)))
    looks.look(worker(uptime=105.0, counts=(counts(3),)))
    looks.look(worker(uptime=115.0, counts=(counts(6),)))
    assert looks.started() == 6


def test_the_last_counts_of_a_worker_that_has_ended_are_counted_once() -> None:
    looks = Looks()
    last = worker(uptime=103.0, counts=(counts(12, succeeded=12),))
    looks.look(worker(counts=(counts(10, succeeded=10),)))
    looks.fleet.note_goodbyes([last])
    looks.fleet.note_goodbyes([last])
    assert (looks.started(), looks.ended(Outcome.SUCCEEDED)) == (2, 2)


def test_a_worker_that_has_said_goodbye_is_gone_although_its_record_is_there() -> None:
    looks = Looks()
    looks.look(worker(running=(running(),)))
    looks.fleet.note_goodbyes([worker(uptime=101.0)])
    assert looks.fleet.view().workers == ()
    view = looks.look(worker(running=(running(),)))
    assert (view.workers, view.running) == ((), ())


def test_a_worker_that_has_come_and_gone_between_two_looks_is_counted() -> None:
    looks = Looks()
    looks.look()
    looks.fleet.note_goodbyes([worker(uptime=2.0, counts=(counts(1, succeeded=1),))])
    assert looks.started() == 1


def test_goodbyes_of_the_time_before_the_first_look_are_not_counted() -> None:
    looks = Looks()
    looks.fleet.note_goodbyes([worker(uptime=2.0, counts=(counts(1),))])
    looks.look()
    assert looks.started() == 0


def test_a_worker_is_lost_when_it_is_silent_beyond_its_lease_at_two_looks() -> None:
    looks = Looks()
    looks.look(worker(running=(running(),), counts=(counts(1),)))
    view = looks.look(worker(age=SILENT, running=(running(),), counts=(counts(1),)))
    assert view.workers[0].state == "busy"
    view = looks.look(worker(age=SILENT + 10, running=(running(),), counts=(counts(1),)), after=10)
    assert view.workers[0].state == "lost"
    assert (view.running, view.queues) == ((), ())


def lose(looks: Looks, record: Worker, looks_after: int = 3) -> FleetView:
    """Look at a worker that is silent from now on until it is lost, and some more times."""
    for number in range(2 + looks_after):
        view = looks.look(replace(record, age=SILENT + 10 * number), after=10)
    return view


def test_the_tasks_of_a_lost_worker_are_counted_and_listed_as_lost_once() -> None:
    looks = Looks()
    record = worker(running=(running("t1"), running("t2")), counts=(counts(5, succeeded=3),))
    looks.look(record)
    view = lose(looks, record)
    assert looks.ended(Outcome.LOST) == 2
    assert [(each.worker, each.task.id, each.task.outcome) for each in view.ended] == [
        ("w1", "t1", Outcome.LOST),
        ("w1", "t2", Outcome.LOST),
    ]
    assert view.ended[0].task.job == "daily"
    assert "longer than its lease of 30 s" in view.ended[0].task.error


def test_a_lost_worker_that_is_back_does_not_count_its_lost_tasks_again() -> None:
    looks = Looks()
    record = worker(running=(running("t1"), running("t2")), counts=(counts(2),))
    looks.look(record)
    lose(looks, record)
    back = worker(uptime=300.0, counts=(counts(4, lost=3, succeeded=1),))
    view = looks.look(back)
    assert view.workers[0].state == "idle"
    assert (looks.ended(Outcome.LOST), looks.ended(Outcome.SUCCEEDED)) == (3, 1)


def test_what_a_frozen_worker_ends_when_it_is_back_is_not_counted_again() -> None:
    looks = Looks()
    record = worker(running=(running("t1"), running("t2")), counts=(counts(2),))
    looks.look(record)
    lose(looks, record)
    looks.look(worker(uptime=300.0, running=(running("t1"),), counts=(counts(2, succeeded=1),)))
    assert (looks.ended(Outcome.LOST), looks.ended(Outcome.SUCCEEDED)) == (2, 0)
    looks.look(worker(uptime=305.0, counts=(counts(4, succeeded=4),)))
    assert (looks.ended(Outcome.LOST), looks.ended(Outcome.SUCCEEDED)) == (2, 2)


def test_a_task_of_a_worker_that_is_frozen_twice_is_counted_as_lost_once() -> None:
    looks = Looks()
    record = worker(running=(running("t1"),), counts=(counts(1),))
    looks.look(record)
    lose(looks, record)
    again = replace(record, uptime=300.0)
    assert looks.look(again).ended == (), "it runs"
    view = lose(looks, again)
    assert (looks.ended(Outcome.LOST), len(view.ended)) == (1, 1)


def test_what_is_listed_as_lost_is_corrected_when_its_worker_is_back() -> None:
    looks = Looks()
    record = worker(running=(running("t1"), running("t2")), counts=(counts(2),))
    looks.look(record)
    assert [each.task.outcome for each in lose(looks, record).ended] == [Outcome.LOST] * 2
    back = worker(uptime=300.0, counts=(counts(2, succeeded=1, lost=1),))
    assert len(looks.look(back).ended) == 2, "nobody watches, so it does not tell"
    number = looks.fleet.ended.last
    ended = (ended_task("t1", looks.clock.now - 9), ended_task("t2", looks.clock.now, Outcome.LOST))
    view = looks.look(replace(back, uptime=305.0, ended=ended))
    assert [each.task for each in view.ended] == [*reversed(ended)]
    assert view.ended_unlisted == 0
    assert len(looks.fleet.view(number).ended) == 2, "an open page is told"


def test_a_worker_that_is_lost_twice_counts_twice() -> None:
    looks = Looks()
    first = worker(running=(running("t1"),), counts=(counts(1),))
    looks.look(first)
    lose(looks, first)
    second = worker(uptime=300.0, running=(running("t2"),), counts=(counts(2, lost=1),))
    looks.look(second)
    lose(looks, second)
    assert looks.ended(Outcome.LOST) == 2


def test_a_worker_that_was_lost_before_the_first_look_counts_nothing() -> None:
    looks = Looks()
    record = worker(age=SILENT, running=(running(),), counts=(counts(1),))
    assert looks.look(record).workers[0].state == "lost"
    view = lose(looks, record)
    assert (looks.ended(Outcome.LOST), view.ended) == (0, ())


def test_a_lost_worker_is_shown_for_a_while_and_then_goes() -> None:
    looks = Looks()
    looks.look(worker())
    lose(looks, worker())
    assert looks.look(worker(age=LEASE + LISTED_SECONDS)).workers[0].state == "lost"
    assert looks.look(worker(age=LEASE + LISTED_SECONDS + 1)).workers == ()


def test_an_outage_of_the_servers_makes_no_worker_lost() -> None:
    looks = Looks()
    looks.look(worker(running=(running(),), counts=(counts(1),)))
    looks.fleet.troubles = {"broker": "It is away.", "backend": "It is away."}
    looks.clock.now += 600
    view = looks.fleet.view()
    assert (view.trouble, view.workers[0].age) == ("It is away.", 600.0)
    looks.fleet.troubles = {"broker": "", "backend": ""}
    looks.look(worker(age=600.0, running=(running(),), counts=(counts(1),)), after=1)
    view = looks.look(worker(uptime=705.0, counts=(counts(1, succeeded=1),)), after=3)
    assert view.workers[0].state == "idle"
    assert looks.ended(Outcome.LOST) == 0


def test_a_queue_has_its_own_messages_and_those_of_its_run_queue() -> None:
    looks = Looks()
    looks.fleet.note_queues(
        [
            QueueDepth("dagster", 3, 1, 20.0, {0: 2, 5: 1}),
            QueueDepth("dagster:runs", 2, None, 60.0, {0: 2}),
            QueueDepth("mail", 4, 0, None, None),
        ],
        rejected=2,
    )
    tasks = (
        running("t1"),
        running("t2", queue="dagster:runs", step_key=""),
        running("t3", queue="dagster:runs", step_key="", orchestrating=True),
    )
    view = looks.look(worker(running=tasks), worker("w2", draining=True))
    dagster, mail = view.queues
    assert (dagster.name, dagster.waiting, dagster.starting) == ("dagster", 5, 1)
    assert (dagster.running, dagster.orchestrating, dagster.demand) == (2, 1, 8)
    assert (dagster.oldest_age, dagster.priorities) == (60.0, {0: 4, 5: 1})
    assert (dagster.workers, dagster.slots, dagster.is_unserved) == (("w1",), 2, False)
    assert (mail.name, mail.oldest_age, mail.priorities) == ("mail", None, None)
    assert mail.is_unserved
    assert view.rejected == 2
    assert json.loads(json.dumps(view.to_plain()))["queues"][0]["priorities"] == {"0": 4, "5": 1}


def test_a_queue_that_nobody_knows_is_empty() -> None:
    looks = Looks()
    looks.look(worker())
    queue = looks.fleet.queue("nobody's")
    assert (queue.name, queue.demand, queue.workers) == ("nobody's", 0, ())


def test_a_task_has_the_start_that_was_seen_first() -> None:
    looks = Looks()
    first = looks.look(worker(age=1.0, running=(running(seconds=3.0),))).running[0]
    later = looks.look(worker(age=1.2, uptime=105.0, running=(running(seconds=8.1),))).running[0]
    assert first.started_at == later.started_at == looks.clock.now - INTERVAL - 4
    again = looks.look(worker(uptime=110.0, running=(running(seconds=1.0, attempt=1),))).running[0]
    assert again.started_at == looks.clock.now - 1


def test_a_task_that_has_ended_is_listed_once_for_a_quarter_of_an_hour() -> None:
    looks = Looks()
    looks.look(worker())
    at = looks.clock.now
    record = worker(uptime=105.0, ended=(ended_task("t1", at), ended_task("t2", at + 1)))
    looks.look(record)
    view = looks.look(replace(record, uptime=110.0))
    assert [each.task.id for each in view.ended] == ["t2", "t1"]
    view = looks.look(replace(record, uptime=115.0), after=LISTED_SECONDS)
    assert (view.ended, view.ended_unlisted) == ((), 0)


def test_what_has_ended_unlisted_is_known_by_its_number() -> None:
    looks = Looks()
    looks.look(worker())
    ended = tuple(ended_task(f"t{n}", looks.clock.now) for n in range(3))
    view = looks.look(worker(uptime=105.0, counts=(counts(9, succeeded=7),), ended=ended))
    assert (len(view.ended), view.ended_unlisted) == (3, 4)


def test_what_has_ended_before_a_worker_was_watched_is_not_counted_twice() -> None:
    looks = Looks()
    looks.look()
    looks.look(worker(uptime=4.0, counts=(counts(9, succeeded=8),)))
    assert looks.fleet.view().ended_unlisted == 8
    ended = tuple(ended_task(f"t{n}", looks.clock.now) for n in range(6))
    watched = worker(uptime=5.0, counts=(counts(9, succeeded=8),), ended=ended)
    view = looks.look(watched)
    assert (len(view.ended), view.ended_unlisted) == (6, 2)
    view = looks.look(replace(watched, uptime=6.0, ended=()))
    view = looks.look(replace(watched, uptime=7.0))
    assert (len(view.ended), view.ended_unlisted) == (6, 2)
    assert looks.look(after=LISTED_SECONDS + 1).ended_unlisted == 0


def test_what_had_to_leave_a_full_list_is_not_listed_again() -> None:
    looks = Looks()
    looks.look(worker("w1"), worker("w2"))
    at = looks.clock.now
    one, two = (tuple(ended_task(f"{name}{n}", at) for n in range(LISTED_TASKS)) for name in "ab")
    for uptime in (105.0, 110.0):
        view = looks.look(
            worker("w1", uptime=uptime, ended=one), worker("w2", uptime=uptime, ended=two)
        )
        assert (len(view.ended), view.ended_unlisted) == (LISTED_TASKS, LISTED_TASKS)


def test_no_more_ended_tasks_are_listed_than_a_page_can_show() -> None:
    looks = Looks()
    looks.look(worker())
    ended = tuple(ended_task(f"t{n}", looks.clock.now + n / 1000) for n in range(LISTED_TASKS + 5))
    view = looks.look(worker(uptime=105.0, ended=ended))
    assert (len(view.ended), view.ended_unlisted) == (LISTED_TASKS, 5)
    assert view.ended[0].task.id == ended[-1].id


def test_only_what_has_ended_since_is_listed_for_one_who_has_the_rest() -> None:
    looks = Looks()
    looks.look(worker())
    looks.look(worker(uptime=105.0, ended=(ended_task("t1", looks.clock.now),)))
    number = looks.fleet.ended.last
    looks.look(worker(uptime=110.0, ended=(ended_task("t2", looks.clock.now),)))
    assert [each.task.id for each in looks.fleet.view(number).ended] == ["t2"]
    assert len(looks.fleet.view().ended) == 2


class Broken(Sequence[Any]):
    def __len__(self) -> int:
        raise zlib.error("not packed")

    def __getitem__(self, index: Any) -> Any:
        raise zlib.error("not packed")


def test_a_worker_whose_counts_cannot_be_read_is_shown_without() -> None:
    looks = Looks()
    looks.look(worker("good", counts=(counts(0),)))
    good = worker("good", uptime=105.0, counts=(counts(1),))
    view = looks.look(good, worker("bad", counts=Broken(), ended=Broken()))
    assert [(each.name, each.ended) for each in view.workers] == [("good", {}), ("bad", {})]
    assert looks.started() == 1


def test_times_are_summed_and_those_with_other_buckets_are_left_out() -> None:
    looks = Looks()
    before, after = counts(1), counts(2)
    before.run.add(2.0)
    after.run.add(2.0)
    after.run.add(0.001)
    after.wait = Times([0, 1], 5.0)
    looks.look(worker(counts=(before,)))
    looks.look(worker(uptime=105.0, counts=(after,)))
    (total,) = looks.fleet.totals.of()
    assert (total.run.count, total.run.buckets[0], round(total.run.seconds, 3)) == (1, 1, 0.001)
    assert (total.wait.count, len(total.wait.buckets)) == (0, len(BOUNDS) + 1)


def test_counts_by_host_go_with_the_last_worker_of_the_host() -> None:
    looks = Looks()
    looks.look()
    one, two = (
        worker(uptime=1.0, counts=(counts(2),)),
        worker("w2", uptime=1.0, counts=(counts(3),)),
    )
    looks.look(one, two)
    assert [each.started for each in looks.fleet.totals.of(Group(host="host"))] == [5]
    looks.look(one)
    assert [each.started for each in looks.fleet.totals.of(Group(host="host"))] == [5]
    assert list(looks.fleet.totals.of(Group(name="w2"))) == []
    looks.look()
    assert list(looks.fleet.totals.of(Group(host="host"))) == []
    assert looks.started() == 5


def test_that_time_goes_by_is_no_change_and_all_else_is_one() -> None:
    looks = Looks()
    looks.fleet.note_queues([QueueDepth("a", 2, 0, oldest_age=5.0)], 0)
    before = looks.look(worker())

    def seen(record: Worker, depth: QueueDepth, rejected: int = 0) -> bool:
        looks.fleet.note_queues([depth], rejected)
        return has_changed(before, looks.look(record))

    older = QueueDepth("a", 2, 0, oldest_age=10.0)
    assert not seen(worker(age=3.0, uptime=200.0, memory=1), older)
    assert seen(worker(draining=True), older)
    assert seen(worker(uptime=300.0, counts=(counts(1, succeeded=1),)), older)
    assert seen(worker(), QueueDepth("a", 2, 0, oldest_age=1.0)), "another message is the oldest"
    assert seen(worker(), QueueDepth("a", 2, 0, oldest_age=None))
    assert seen(worker(), QueueDepth("b", 2, 0, oldest_age=10.0))
    assert seen(worker(), older, rejected=1)
    looks.fleet.troubles["broker"] = "It does not answer."
    assert seen(worker(), older)
