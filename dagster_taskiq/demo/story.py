"""How each step of a run has gone, by its events: for progress and for the summary."""

from dataclasses import dataclass, field
from enum import Enum

from dagster import DagsterEvent, DagsterEventType, DagsterInstance


class Outcome(str, Enum):
    """The state of a step, in the words that are shown."""

    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "to retry"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass
class StepStory:
    """One step of a run. Times are seconds since the epoch."""

    key: str
    outcome: Outcome = Outcome.WAITING
    attempts: int = 0
    #: Process ids of the children that started it, one for each attempt.
    pids: list[str] = field(default_factory=list)
    #: Why each attempt but the last did not succeed, or the step failed.
    reasons: list[str] = field(default_factory=list)
    successes: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    def seconds(self, now: float) -> float:
        """Return how long it took from its first start to its end, or until ``now``."""
        if not self.first_at:
            return 0.0
        at_work = self.outcome in (Outcome.RUNNING, Outcome.RETRYING)
        return max(0.0, (now if at_work else self.last_at) - self.first_at)


@dataclass
class RunStory:
    """One run: its steps in the order of their first events, and what they have made."""

    steps: dict[str, StepStory] = field(default_factory=dict)
    #: Assets that were materialized, each with its partition in brackets if it has one.
    assets: list[str] = field(default_factory=list)
    #: Asset checks that passed, by name.
    checks: list[str] = field(default_factory=list)
    #: How many values the steps have collected: the metadata ``parcels`` of an output.
    collected: int = 0
    error: str = ""

    @property
    def attempts(self) -> int:
        """How many attempts all steps have taken."""
        return sum(step.attempts for step in self.steps.values())

    def add(self, event: DagsterEvent, at: float) -> str | None:
        """Add the next event, and return the sentence for it if it is to be shown.

        Args:
            event: the event.
            at: when it happened, in seconds since the epoch.
        """
        if event.is_run_failure or event.event_type == DagsterEventType.PIPELINE_CANCELED:
            self.error = _first_line(event.message or "The run ended early.")
        if event.step_key is None or event.event_type not in _SHOWN:
            return None
        step = self.steps.setdefault(event.step_key, StepStory(event.step_key))
        if event.event_type == DagsterEventType.STEP_WORKER_STARTED:
            pid = event.engine_event_data.metadata.get("pid")
            step.pids.append(str(pid.value) if pid else "?")
            return None
        if event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
            partition = f"[{event.partition}]" if event.partition else ""
            name = event.asset_key.to_user_string() if event.asset_key else "?"
            self.assets.append(name + partition)
            return f"materialized the asset {name}{partition}"
        if event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if check.passed:
                self.checks.append(check.check_name)
            return f"asset check {check.check_name} {'passed' if check.passed else 'failed'}"
        if event.event_type == DagsterEventType.STEP_OUTPUT:
            parcels = event.step_output_data.metadata.get("parcels")
            self.collected += int(str(parcels.value)) if parcels else 0
            return None
        return _move(step, event, at)

    @classmethod
    def from_event_log(cls, instance: DagsterInstance, run_id: str) -> "RunStory":
        """Return the story of a run as its event log has it from beginning to end."""
        story = cls()
        for entry in instance.all_logs(run_id):
            if entry.dagster_event is not None:
                story.add(entry.dagster_event, entry.timestamp)
        return story


def _move(step: StepStory, event: DagsterEvent, at: float) -> str:
    """Note that a step has started or ended, and return the sentence for it."""
    step.last_at = at
    if event.is_step_start or event.is_step_restarted:
        step.outcome = Outcome.RUNNING
        step.attempts += 1
        step.first_at = step.first_at or at
        return "started" if step.attempts == 1 else f"started again, attempt {step.attempts}"
    if event.is_step_success:
        step.outcome = Outcome.SUCCEEDED
        step.successes += 1
        return "succeeded"
    if event.is_step_skipped:
        step.outcome = Outcome.SKIPPED
        return "skipped, since its input was not produced"
    if event.is_step_up_for_retry:
        step.outcome = Outcome.RETRYING
        data = event.step_retry_data
        asked = data.error is not None and data.error.cls_name == "RetryRequested"
        reason = "the step asked for it" if asked or data.error is None else data.error.message
    else:
        step.outcome = Outcome.FAILED
        error = event.step_failure_data.error
        reason = error.message if error is not None else "no error was given"
    reason = _first_line(reason)
    step.reasons.append(reason)
    return f"{step.outcome.value}: {reason}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


_SHOWN = frozenset(
    {
        DagsterEventType.STEP_WORKER_STARTED,
        DagsterEventType.STEP_START,
        DagsterEventType.STEP_RESTARTED,
        DagsterEventType.STEP_UP_FOR_RETRY,
        DagsterEventType.STEP_SUCCESS,
        DagsterEventType.STEP_FAILURE,
        DagsterEventType.STEP_SKIPPED,
        DagsterEventType.STEP_OUTPUT,
        DagsterEventType.ASSET_MATERIALIZATION,
        DagsterEventType.ASSET_CHECK_EVALUATION,
    }
)
