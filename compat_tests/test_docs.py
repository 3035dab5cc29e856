"""README.md and docs/: links lead somewhere, and the reference pages are what the code is."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from compat_tests import compatibility
from compat_tests.checkout import ROOT
from compat_tests.docs.blocks import pages
from compat_tests.workers import options_of_start
from dagster_taskiq.app import QUEUES_ENV
from dagster_taskiq.cli.commands import cli
from dagster_taskiq.cli.worker import start
from dagster_taskiq.execution.allowed_code import ALLOW_ENV
from dagster_taskiq.monitor.access import TOKEN_ENV
from dagster_taskiq.settings.env import BACKEND_ENV, BROKER_ENV, HOME_ENV
from dagster_taskiq.settings.sqs_names import ENDPOINT_URL_ENV, QUEUE_URL_ENV
from dagster_taskiq.tags import PRIORITY_TAG, QUEUE_TAG, RUN_PRIORITY_TAG, TASK_ID_TAG
from dagster_taskiq.transport.rabbitmq.url import OPTIONS
from dagster_taskiq.transport.registry import BACKENDS, BROKERS
from dagster_taskiq.transport.sqs.url import OPTIONS as SQS_OPTIONS
from dagster_taskiq.version import __version__
from dagster_taskiq.wire.labels import PRIORITY_LABEL, QUEUE_LABEL, UNITS
from dagster_taskiq.worker.options import (
    ASYNC_TASKS_ENV,
    CONCURRENCY_ENV,
    DRAIN_TIMEOUT_ENV,
    HTTP_PORT_ENV,
    KILL_GRACE_ENV,
    LOG_FORMAT_ENV,
    POD_DELETION_COST_ENV,
    PoolOptions,
)

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
MAP = DOCS / "README.md"
#: More than a screen and a half, and nobody reads it.
README_LINES = 160


def without_code(text: str) -> str:
    """Return a page without its code blocks and code spans, in which nothing is a link."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    fenced = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.*)$", fenced, re.MULTILINE):
        anchor = re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        number = 0
        while (name := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(name)
    return found


def links() -> list[tuple[str, str]]:
    """Return every page with each link on it that is not to another site."""
    return sorted(
        (str(page.relative_to(ROOT)), target)
        for page in pages()
        for target in set(re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())))
        if not re.match(r"\w+:", target)
    )


def test_there_are_links_to_check() -> None:
    assert {"README.md", "docs/how-to/migration.md"} <= {page for page, _ in links()}


@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    name, _, anchor = target.partition("#")
    path = (ROOT / page).parent / name if name else ROOT / page
    assert path.exists()
    if anchor:
        assert anchor in anchors_of(path.read_text())


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_the_map_of_the_docs_leads_to_every_page(page: Path) -> None:
    assert page == MAP or f"]({page.relative_to(DOCS)})" in MAP.read_text()


def test_the_readme_leads_to_the_map_of_the_docs() -> None:
    assert f"]({MAP.relative_to(ROOT)})" in (ROOT / "README.md").read_text()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_the_changelog_begins_with_the_version_that_this_is() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\S+)", text, re.MULTILINE)[0] == __version__


def figures(what: str, place: str = "redis") -> list[str]:
    """Return what the page about performance has for one measure: theirs, and ours."""
    row = rf"^\| {re.escape(what)} +\| {place} +\| *(\S+) *\| *(\S+) *\|"
    (pair,) = re.findall(row, (DOCS / "explanation" / "performance.md").read_text(), re.MULTILINE)
    return list(pair)


def test_the_figures_of_the_readme_are_those_that_were_measured() -> None:
    readme = (ROOT / "README.md").read_text()
    for row, measure in (
        ("a chain of 20 steps", "chain of 20, s"),
        ("100 independent steps", "fan of 100, s"),
        ('"Terminate" until the running step is dead', "launched run terminated to dead step, s"),
    ):
        cells = [each if each == "never" else f"{each} s" for each in figures(measure)]
        assert f"| {row} | {' | '.join(cells)} |" in readme
    theirs, ours = figures("idle worker, of a core, %", "rabbitmq")
    assert f"an idle worker takes {ours} % of a core there instead of {theirs} %" in readme


def test_the_generated_tables_are_those_of_the_code(tmp_path: Path) -> None:
    written = [each for each in DOCS.rglob("*.md") if "<!-- table: " in each.read_text()]
    # That one is written by the benchmarks.
    written.remove(DOCS / "explanation" / "performance.md")
    copies = [Path(shutil.copy(page, tmp_path)) for page in written]
    script = ROOT / "scripts" / "update_docs.py"
    subprocess.run([sys.executable, str(script), *map(str, copies)], check=True, cwd=ROOT)
    changed = [
        page.name
        for page, copy in zip(written, copies, strict=True)
        if copy.read_text() != page.read_text()
    ]
    assert changed == [], "Run: python scripts/update_docs.py"


@pytest.mark.parametrize("row", [*compatibility.libraries(), *compatibility.servers()], ids=str)
def test_each_row_about_releases_names_a_test_that_is_there(row: compatibility.Row) -> None:
    file, _, function = row.test.partition("::")
    assert (ROOT / file).exists()
    assert not function or f"\ndef {function}(" in (ROOT / file).read_text()


def table(page: str, heading: str = "") -> dict[str, str]:
    """Return the first table on a page, or below one of its headings.

    Returns:
        the first column, without ticks, and the rest of each row.
    """
    text = (REFERENCE / page).read_text()
    if heading:
        text = re.split(rf"^#+ {heading}$", text, maxsplit=1, flags=re.MULTILINE)[1]
    rows = re.findall(r"^\|.*$", text.partition("\n|")[2].partition("\n\n")[0], re.MULTILINE)[1:]
    cells = [row.strip("| ").partition(" | ") for row in rows]
    return {first.replace("`", ""): rest for first, _, rest in cells}


def test_every_option_of_a_worker_is_listed_and_no_other() -> None:
    options = {
        name
        for parameter in start.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
    }
    listed = [name for row in table("cli.md", "Worker options") for name in row.split(", ")]
    assert sorted(listed) == sorted(options)


def test_every_command_is_listed_and_no_other() -> None:
    commands = set()
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        held = command.list_commands(context) if isinstance(command, click.Group) else [""]
        commands |= {f"dagster-taskiq {name} {each}".strip() for each in held}
    listed = {re.sub(r" (NAME|ID)\.\.\.$", "", row) for row in table("cli.md", "Commands")}
    assert listed == commands


def test_a_worker_gives_a_stopped_task_the_grace_that_is_listed() -> None:
    grace = options_of_start([])["kill_grace"]
    assert (grace, PoolOptions(concurrency=1, max_runs=1).kill_grace) == (30.0, 30.0)
    assert f"Default: {grace:g}." in table("cli.md", "Worker options")["--kill-grace"]


def test_every_tag_is_listed_and_no_other() -> None:
    tags = {QUEUE_TAG, PRIORITY_TAG, RUN_PRIORITY_TAG, TASK_ID_TAG}
    assert set(table("tags.md", "Tags")) == tags


def test_every_label_is_listed_and_no_other() -> None:
    listed = {name for row in table("tags.md", "Labels") for name in row.split(", ")}
    assert listed == {QUEUE_LABEL, PRIORITY_LABEL, *UNITS}


def test_every_variable_is_listed_and_no_other() -> None:
    ours = {BROKER_ENV, BACKEND_ENV, CONCURRENCY_ENV, QUEUES_ENV, ALLOW_ENV, HOME_ENV}
    ours |= {DRAIN_TIMEOUT_ENV, KILL_GRACE_ENV, HTTP_PORT_ENV, POD_DELETION_COST_ENV}
    ours |= {"DAGSTER_EXECUTOR_POP_EVENTS_OFFSET", ASYNC_TASKS_ENV, TOKEN_ENV, LOG_FORMAT_ENV}
    ours |= {QUEUE_URL_ENV, ENDPOINT_URL_ENV, "AWS_DEFAULT_REGION"}
    assert {name for row in table("environment.md") for name in row.split(", ")} == ours


def test_every_option_of_rabbitmq_is_listed_and_no_other() -> None:
    assert set(table("brokers.md", "RabbitMQ")) == set(OPTIONS)


def test_every_option_of_sqs_is_listed_and_no_other() -> None:
    listed = {name for row in table("brokers.md", "SQS") for name in row.split(", ")}
    assert listed == set(SQS_OPTIONS)


@pytest.mark.parametrize("scheme", sorted({*BROKERS.entries, *BACKENDS.entries}))
def test_every_scheme_is_listed(scheme: str) -> None:
    assert any(f"{scheme}://" in row for row in table("brokers.md"))
