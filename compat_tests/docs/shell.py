"""Command lines: the programs are known, and what is given to ours is what they take."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import tomli
from dagster._cli import create_dagster_cli
from packaging.requirements import InvalidRequirement, Requirement

from compat_tests.checkout import ROOT
from compat_tests.docs.outcome import Wrong
from dagster_celery.cli import main as celery_cli
from dagster_taskiq.cli.commands import cli as taskiq_cli

#: The programs whose commands, options and arguments are checked.
OURS: dict[str, click.Command] = {"dagster-celery": celery_cli, "dagster-taskiq": taskiq_cli}

#: Programs of others, by what they are for. Their arguments are theirs.
KNOWN = {
    *("cd", "cp", "mkdir", "touch", "rm", "mv", "ln", "ls", "cat", "echo", "printf", "tee", "diff"),
    *("chmod", "chown", "install", "export", "exec", "source", ".", "set", "unset", "test", "true"),
    *("grep", "sed", "awk", "sort", "head", "tail", "wc", "xargs", "find", "jq", "watch", "sleep"),
    *("kill", "ps", "df", "free", "nproc", "openssl", "ssh", "scp", "rsync", "curl", "sudo", "env"),
    *("git", "make", "pip", "uv", "poetry", "python", "python3", "pytest", "pgrep", "ss", "wait"),
    *("apt-get", "useradd", "systemctl", "systemd-analyze", "journalctl", "loginctl"),
    *("docker", "podman", "kubectl", "kustomize", "helm", "aws", "terraform", "gcloud"),
    *("psql", "createdb", "createuser", "pg_dump", "pgbouncer"),
    *("redis-cli", "valkey-cli", "rabbitmqctl", "rabbitmq-diagnostics", "rabbitmq-plugins"),
    *("celery", "taskiq", "uvicorn", "opentelemetry-instrument", "promtool", "nohup", "timeout"),
    *("dagster-webserver", "dagster-daemon", "dagster-graphql"),
}

#: Words that are followed by another command.
_BEFORE_A_COMMAND = ("sudo", "exec", "nohup", "then", "do", "else", "if", "while", "until", "!")
_CLOSING = ("fi", "done", "}", "{")
_SEPARATORS = re.compile(r"[|&;()]+")
_ASSIGNMENT = re.compile(r"(\w+)=.*", re.DOTALL)
_OUR_VARIABLE = re.compile(r"\bDAGSTER_TASKIQ_\w+")


def check_shell(code: str, page: str) -> None:
    """Check a block of commands.

    Args:
        code: the commands, one on a line.
        page: the page it is on, from the root: the Makefile beside it has the targets of ``make``.

    Raises:
        Wrong: it is no shell, or one of the commands is not there.
    """
    done = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(f"bash cannot read this; correct it: {done.stderr.strip()}")
    if re.search(r"^\s*[$>%] ", code, re.MULTILINE):
        raise Wrong("Take the prompts away: a block of commands has them without.")
    for variable in set(_OUR_VARIABLE.findall(code)) - variables():
        raise Wrong(f"{variable} is not in docs/reference/environment.md; name one that is.")
    for words in commands_in(code):
        check_command(words, page)


@cache
def variables() -> frozenset[str]:
    """Return the variables of the environment that docs/reference/environment.md has.

    test_docs.py holds that these are those of the code.
    """
    page = (ROOT / "docs" / "reference" / "environment.md").read_text()
    return frozenset({*_OUR_VARIABLE.findall(page), *_of_make()})


def _of_make() -> set[str]:
    """Return the variables that only the tests read, from CONTRIBUTING.md and the workflow."""
    sources = (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / ".ci" / "run").read_text()
    return set(_OUR_VARIABLE.findall(sources))


def commands_in(code: str) -> Iterator[list[str]]:
    """Yield the words of each command in some lines, without what is assigned before it."""
    text = re.sub(r"<<-?\s*'?(\w+)'?\n.*?^\1$", "", code, flags=re.DOTALL | re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.wordchars += "$%@,:+^{}[]!"
        words: list[str] = []
        for word in (*lexer, ";"):
            if not _SEPARATORS.fullmatch(word):
                words.append(word)
                continue
            yield from _command(words)
            words = []


def _command(words: Sequence[str]) -> Iterator[list[str]]:
    rest = list(_without_redirections(words))
    while rest and (_ASSIGNMENT.fullmatch(rest[0]) or rest[0] in _BEFORE_A_COMMAND):
        # The user as whom sudo runs the command is no part of it.
        del rest[: 3 if rest[:2] == ["sudo", "-u"] else 1]
    if rest and rest[0] not in (*_CLOSING, "for", "$"):
        yield rest


def _without_redirections(words: Sequence[str]) -> Iterator[str]:
    left = iter(words)
    for word in left:
        if re.fullmatch(r"[<>]+", word):
            next(left, None)
        else:
            yield word


def check_command(words: Sequence[str], page: str, *, is_whole: bool = True) -> None:
    """Check one command.

    Args:
        words: the program, and what is given to it.
        page: the page it is on, from the root.
        is_whole: whether it could be typed. What a sentence names may lack what has to be given.

    Raises:
        Wrong: there is no such program, or it does not take what it is given.
    """
    program, *arguments = words
    if program in OURS:
        check_arguments(OURS[program], program, arguments, is_whole=is_whole)
    elif program == "dagster":
        check_arguments(dagster_cli(), program, arguments)
    elif program == "make":
        _check_targets([each for each in arguments if "=" not in each], page)
    elif program in ("pip", "uv") and "install" in arguments:
        _check_requirements(arguments[arguments.index("install") + 1 :])
    elif program in ("python", "python3"):
        _check_python(arguments)
    elif program not in KNOWN and "/" not in program:
        raise Wrong(
            f"{program} is a program that compat_tests/docs/shell.py does not know: correct it, or "
            "add it to KNOWN. If this is no command, it is not `sh`; output is `text`."
        )


@cache
def dagster_cli() -> click.Group:
    """Return Dagster's own command."""
    return create_dagster_cli()


def check_arguments(
    command: click.Command, program: str, arguments: Sequence[str], *, is_whole: bool = True
) -> None:
    """Check what is given to a command of click's, up to its options; nothing is executed.

    Raises:
        Wrong: there is no such command, or it does not take this.
    """
    words = [each for each in arguments if each != "..."]
    called = " ".join((program, *words))
    context = click.Context(command, info_name=program, **command.context_settings)
    while isinstance(command, click.Group) and words:
        name = words.pop(0)
        if name in ("--help", "-h", "--version"):
            return
        found = command.get_command(context, name)
        if found is None:
            raise Wrong(f"`{called}`: there is no command {name}; `{program} --help` has them.")
        command = found
        context = click.Context(command, context, name, **command.context_settings)
    if isinstance(command, click.Group):
        return
    try:
        with TemporaryDirectory() as name, _inside(name), redirect_stderr(StringIO()):
            _make_files(command, words)
            # Not without its parent: click keeps the names of the option for help with the command.
            command.make_context(called, words, context.parent)
    except click.exceptions.Exit:
        pass
    except click.ClickException as error:
        lacks = isinstance(error, click.MissingParameter) or "requires an argument" in str(error)
        if lacks and not is_whole:
            return
        raise Wrong(f"`{called}`: {error.format_message()}") from None


class _inside:
    """A working directory, for a while."""

    def __init__(self, directory: str) -> None:
        self._directory, self._before = directory, str(Path.cwd())

    def __enter__(self) -> None:
        os.chdir(self._directory)

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)


def _make_files(command: click.Command, words: Sequence[str]) -> None:
    """Make an empty file of each word that an option may want to be a file that exists."""
    takers = {
        name
        for parameter in command.params
        if isinstance(parameter.type, click.Path) and parameter.type.exists
        for name in parameter.opts
    }
    for before, word in pairwise(words):
        if before in takers and not Path(word).is_absolute() and ".." not in word:
            path = Path(re.sub(r"[$\"~{}]", "", word))
            if not path.is_absolute():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


def _check_targets(targets: Sequence[str], page: str) -> None:
    beside = ROOT / Path(page).parent / "Makefile"
    directory = beside if beside.exists() else ROOT / "Makefile"
    there = set(re.findall(r"^([\w-]+):", directory.read_text(), re.MULTILINE))
    there |= {"-C", *(each for each in targets if each.startswith("-"))}
    for target in targets:
        if target not in there and "/" not in target:
            raise Wrong(f"{directory.relative_to(ROOT)} has no target {target}; name one it has.")


@cache
def extras() -> frozenset[str]:
    """Return the extras of this project."""
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    return frozenset(project["optional-dependencies"])


def check_requirement(text: str) -> None:
    """Check a requirement as pip reads it.

    Raises:
        Wrong: it is none, or it names an extra that this project does not have.
    """
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise Wrong(f"pip does not take the requirement {text}: {error}") from None
    if requirement.name in ("dagster-taskiq", "dagster_taskiq"):
        for extra in requirement.extras - extras():
            raise Wrong(f"{text}: this project has no extra {extra}; pyproject.toml has them.")


#: Options of installers that take a value.
_WITH_VALUE = {"-r", "-c", "-e", "-f", "--find-links", "--index-url", "--target", "--python"}


def _check_requirements(arguments: Sequence[str]) -> None:
    left = iter(arguments)
    for each in left:
        if each in _WITH_VALUE:
            next(left, None)
        elif not each.startswith(("-", ".", "/", "$")) and not each.endswith(".whl"):
            check_requirement(each)


def _check_python(arguments: Sequence[str]) -> None:
    options = list(arguments)
    if "-c" in options:
        ast.parse(options[options.index("-c") + 1])
    elif "-m" in options:
        module, *rest = options[options.index("-m") + 1 :]
        if module == "dagster":
            check_arguments(dagster_cli(), "dagster", rest)
        elif importlib.util.find_spec(module.partition(".")[0]) is None:
            raise Wrong(f"python -m {module}: there is no such module.")
