"""Which checker a block has: by its file name, or else by its language.

A new kind of file is a row of ``FILES`` in :mod:`compat_tests.docs.files`, or if Python or a shell
reads it a language here, and a bad example in ``test_checkers.py``.
"""

import re
from dataclasses import replace
from fnmatch import fnmatch

from compat_tests.docs import files
from compat_tests.docs.blocks import Block
from compat_tests.docs.outcome import Wrong
from compat_tests.docs.python_blocks import check_imports, check_python
from compat_tests.docs.shell import check_shell
from compat_tests.docs.sql import check_sql


def check_text(block: Block) -> None:
    """Output and drawings are not checked; a file with this language is, by its name."""


def check_shell_block(block: Block) -> None:
    """Check commands."""
    check_shell(block.code, block.page)


def check_python_block(block: Block) -> None:
    """Execute Python, or where a comment says why not, see that what it imports is there."""
    if block.note("not run") is None:
        check_python(block)
    else:
        check_imports(block)


def check_diff(block: Block) -> None:
    """Check both sides of a diff, each as what a comment says that they are."""
    kind = block.note("diff of")
    if kind is None:
        raise Wrong(
            "Say what both sides of the diff are, in a comment before it: "
            "`<!-- snippet: diff of python -->`, or `sh`, or the name of a file. Where the name "
            "changes too, both: `diff of celery.yaml, taskiq.yaml`."
        )
    names = [each.strip() for each in kind.split(",")]
    for code, name in zip(sides(block.code), (names[0], names[-1]), strict=True):
        if not code.strip():
            continue
        if name in ("python", "sh"):
            side = replace(block, language=name, code=code, name=None, notes=("not run: a diff",))
        else:
            side = replace(block, language="text", code=code, name=name, notes=())
        check(side)


def sides(code: str) -> tuple[str, str]:
    """Return what a diff changes, and what it makes of it."""
    lines = code.splitlines(keepends=True)
    before = [line[1:] or "\n" for line in lines if line[:1] in ("-", " ", "\n")]
    after = [line[1:] or "\n" for line in lines if line[:1] in ("+", " ", "\n")]
    return "".join(before), "".join(after)


#: What checks a block that has no file name, or one that :data:`files.FILES` does not have.
LANGUAGES: dict[str, files.Check] = {
    "text": check_text,
    "sh": check_shell_block,
    "python": check_python_block,
    "diff": check_diff,
    "sql": check_sql,
    "yaml": files.check_yaml,
    "json": files.check_json,
    "toml": files.check_toml,
    "ini": files.check_ini,
    "promql": files.check_promql,
    "dockerfile": files.check_dockerfile,
}
#: What a block may have as its language, and the one to write.
OTHER_NAMES = {
    "bash": "sh", "shell": "sh", "console": "sh", "py": "python", "pycon": "python", "yml": "yaml",
    "Dockerfile": "dockerfile", "docker": "dockerfile", "txt": "text", "postgresql": "sql",
}  # fmt: skip

#: The first words of comments that say how a block is checked.
NOTES = ("before", "not run", "raises", "part of", "diff of")


def check(block: Block) -> None:
    """Check a block.

    Raises:
        Wrong: it is not as it has to be, or nothing checks blocks of its kind.
    """
    if block.language is None:
        raise Wrong("Put this between fences (```) with a language: an indented block has none.")
    if not block.language:
        raise Wrong("Write a language behind the first ```; that of output and drawings is `text`.")
    for note in block.notes:
        if not re.match(rf"({'|'.join(NOTES)})[:\s]", note):
            raise Wrong(f"`snippet: {note}` has no meaning; compat_tests/docs/blocks.py has those.")
    if block.note("not run") == "":
        raise Wrong("Say why this is not executed: `<!-- snippet: not run: why -->`.")
    if block.language in OTHER_NAMES:
        raise Wrong(f"Write `{OTHER_NAMES[block.language]}` in place of `{block.language}`.")
    checker = checker_by_name(block) or LANGUAGES.get(block.language)
    if checker is None:
        raise Wrong(
            f"Nothing checks `{block.language}`, so add a checker to LANGUAGES of "
            f"compat_tests/docs/checkers.py; it has {', '.join(LANGUAGES)}."
        )
    if checker is check_text and block.name is not None:
        raise Wrong(
            f"Nothing checks a file {block.name}, so add a row to FILES of "
            "compat_tests/docs/files.py, or take the name away if this is no file."
        )
    checker(block)


def checker_by_name(block: Block) -> files.Check | None:
    """Return what checks a file with the name of the block, or of the file it is part of."""
    name = block.note("part of") or block.name
    if name is None or block.language in ("python", "sh", "diff"):
        return None
    if block.note("part of") and re.match(r"[A-Z]\w+\.", name):
        return files.check_part_of_manifest
    last = name.rpartition("/")[2]
    found = (
        checker
        for pattern, checker in files.FILES.items()
        if fnmatch(last, pattern) or fnmatch(name, pattern)
    )
    return next(found, None)
