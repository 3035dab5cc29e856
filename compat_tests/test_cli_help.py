"""The help of ``dagster-taskiq`` and its completion in a shell: what they show, at what cost."""

import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from compat_tests.checkout import ROOT
from dagster_taskiq.cli.commands import cli

PROGRAM = str(Path(sys.executable).with_name("dagster-taskiq"))

#: What takes long to import, and no help needs.
HEAVY = {"aiohttp", "dagster", "pydantic", "rich", "sqlalchemy", "taskiq", "yaml"}


def all_commands(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield each command with the words that call it."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(all_commands())


def help_of(path: tuple[str, ...]) -> str:
    shown = CliRunner().invoke(cli, [*path, "-h"], prog_name="dagster-taskiq")
    assert shown.exit_code == 0
    return shown.output


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_command_has_help(path: tuple[str, ...]) -> None:
    assert help_of(path).startswith(f"Usage: {' '.join(('dagster-taskiq', *path))} ")


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_cuts_no_sentence(path: tuple[str, ...]) -> None:
    lines = help_of(path).splitlines()
    assert [line for line in lines if len(line) > 80 or re.search(r"\w\.\.\.$", line)] == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_help_ends_with_examples_that_can_be_typed(path: tuple[str, ...]) -> None:
    _, _, shown = help_of(path).partition("\n  Examples:\n")
    examples = [line for line in shown.partition("\n\n")[0].splitlines() if line]
    assert examples
    for example in examples:
        words = shlex.split(example.partition("|")[0])
        while "=" in words[0]:  # a variable of the environment
            words.pop(0)
        assert words[0] == "dagster-taskiq"
        called = max((each for each in COMMANDS if words[1:][: len(each)] == list(each)), key=len)
        assert called[: len(path)] == path, example
        # Raises if there is no such option, or not of that kind.
        parent = click.Context(cli, **cli.context_settings)
        COMMANDS[called].make_context("example", words[1 + len(called) :], parent)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_default_is_shown(path: tuple[str, ...]) -> None:
    context = click.Context(COMMANDS[path])
    hidden = []
    for option in COMMANDS[path].params:
        if isinstance(option, click.Option) and not option.is_flag:
            is_told = option.show_default or "Default:" in (option.help or "")
            if isinstance(option.get_default(context), str | int | float) and not is_told:
                hidden.append(option.opts[0])
    assert hidden == []


def test_no_help_imports_what_takes_long() -> None:
    code = (
        "import sys\n"
        "from dagster_taskiq.cli.commands import cli\n"
        f"for path in {list(COMMANDS)}:\n"
        "    cli.main([*path, '--help'], 'dagster-taskiq', standalone_mode=False)\n"
        f"print(sorted({HEAVY} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage: ") == len(COMMANDS)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    assert CliRunner().invoke(cli, ["worker", "start", "--help"]).exit_code == 0


def test_what_help_costs_is_a_figure(record_property: Callable[[str, object], None]) -> None:
    for path in (("--help",), ("worker", "start", "--help"), ("status", "--help")):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([PROGRAM, *path], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        record_property(f"CPU time of {' '.join(path)}", f"{spent:.2f} s")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["wor"], ["worker"]),
        (["worker", ""], ["list", "start", "terminate"]),
        (["worker", "start", "--drain"], ["--drain-timeout"]),
        (["worker", "start", "--loglevel", "war"], ["warning"]),
    ],
    ids=" ".join,
)
def test_bash_completes_commands_options_and_values(words: list[str], offered: list[str]) -> None:
    (line,) = re.findall(r"\| bash.*?\| `(.*?)` \|", (ROOT / "docs/reference/cli.md").read_text())
    assert line in help_of(())
    typed = " ".join(f"'{word}'" for word in ("dagster-taskiq", *words))
    script = (
        f'PATH="{Path(PROGRAM).parent}:$PATH"\n'
        f"{line}\n"
        f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}\n"
        "$(complete -p dagster-taskiq | sed 's/.*-F \\([^ ]*\\) .*/\\1/') dagster-taskiq\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True
    )
    assert (done.stdout.split(), done.stderr) == (offered, "")
