"""What must be true after the example project has run, by the event log and nothing else."""

from dataclasses import dataclass

from dagster_taskiq.demo import project
from dagster_taskiq.demo.story import Outcome, RunStory, StepStory


@dataclass(frozen=True)
class Fact:
    """A statement about the runs, and whether it holds."""

    statement: str
    holds: bool


def facts_of(assets: RunStory, parcels: RunStory, partition: str) -> list[Fact]:
    """Return the facts that make the demo a success, when all of them hold.

    Args:
        assets: the story of ``shop_assets``.
        parcels: the story of ``ship_parcels``.
        partition: the partition that ``shop_assets`` was run for.
    """
    weighings = {parcel: f"weigh_parcel[{parcel}]" for parcel in project.PARCELS}
    expected = {"list_parcels", *weighings.values(), "load_van", "choose_route", "drive"}
    asking = _step(parcels, weighings[project.SLOW_SCALES])
    killed = _step(parcels, weighings[project.KILLED])
    once = all(
        step.successes == (step.outcome is Outcome.SUCCEEDED)
        for story in (assets, parcels)
        for step in story.steps.values()
    )
    trouble = {asking.key, killed.key}
    others = [step for step in parcels.steps.values() if step.key not in trouble and step.attempts]
    return [
        Fact(
            f"assets orders, price and revenue[{partition}] were materialized",
            sorted(assets.assets) == ["orders", "price", f"revenue[{partition}]"],
        ),
        Fact("asset check every_region_orders passed", assets.checks == ["every_region_orders"]),
        Fact(
            f"{len(project.PARCELS)} steps fanned out, and {parcels.collected} values came in",
            parcels.collected == len(project.PARCELS),
        ),
        Fact(
            f"{asking.key} asked for a retry, and succeeded at attempt {asking.attempts}",
            _recovered(asking) and asking.reasons == ["the step asked for it"],
        ),
        Fact(
            f"{killed.key} lost its process ({' then '.join(killed.pids)}), and succeeded at "
            f"attempt {killed.attempts}",
            _recovered(killed) and "SIGKILL" in killed.reasons[0] and len(set(killed.pids)) == 2,
        ),
        Fact(
            "sail was skipped, and nothing else",
            [key for key, step in parcels.steps.items() if step.outcome is Outcome.SKIPPED]
            == ["sail"],
        ),
        Fact(
            "every other step ran once, and every step succeeded once",
            once
            and all(step.attempts == 1 for step in others)
            and expected == {key for key, step in parcels.steps.items() if step.successes},
        ),
    ]


def _step(story: RunStory, key: str) -> StepStory:
    return story.steps.get(key, StepStory(key))


def _recovered(step: StepStory) -> bool:
    return step.outcome is Outcome.SUCCEEDED and step.attempts == 2 and len(step.reasons) == 1
