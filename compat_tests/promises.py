"""Which test holds which promise, on which broker, and when: ``make promises`` writes PROMISES.md.

The promises stand in ``promises.yaml``, those for the case that something breaks in the tables of
``docs/explanation/reliability.md``.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from compat_tests.brokers import KINDS
from compat_tests.checkout import ROOT
from compat_tests.tiers import broker_of

HERE = Path(__file__).parent
LIST = HERE / "promises.yaml"
PAGE = HERE / "PROMISES.md"
RELIABILITY = ROOT / "docs" / "explanation" / "reliability.md"

#: All tests there are.
DIRECTORIES = ("compat_tests", "legacy_tests")

#: What stands for the broker of a test that takes none.
NO_BROKER = "-"

_HEAD = """\
# Promises

What is promised, and the tests that hold it: the brokers on which they run on every push, and those
that only `make test-all` adds. A dash stands for tests that take no broker. A whole file is on a
broker if one of its tests is; which one is decided by [tiers.py](tiers.py).

`make promises` has made this page from [promises.yaml](promises.yaml) and
[reliability.md](../docs/explanation/reliability.md); change those.
"""

_TABLE = ("| test | on every push | only in `make test-all` |", "|---|---|---|")


@dataclass(frozen=True)
class Promise:
    """One promise."""

    text: str
    #: Its tests: a file, or ``file::function``, from the root of the checkout on.
    held_by: tuple[str, ...]


@dataclass(frozen=True)
class Holder:
    """One file or function that holds a promise, and the brokers it does that on."""

    name: str
    on_push: tuple[str, ...]
    only_in_all: tuple[str, ...]


def promises() -> list[Promise]:
    """Return those of the list, then those for the case that something breaks."""
    listed = yaml.safe_load(LIST.read_text())
    return [Promise(each["promise"], tuple(each["held_by"])) for each in listed] + list(_faults())


def _faults() -> Iterator[Promise]:
    for line in RELIABILITY.read_text().splitlines():
        tests = re.findall(r"`(\w+(?:/\w+)*\.py::\w+)`", line)
        if line.startswith("|") and tests:
            case, promised = (each.strip() for each in line.split("|")[1:3])
            names = tuple(f"compat_tests/{each}" for each in tests)
            yield Promise(f"*{case}:* {promised}", names)


def holders(promise: Promise, items: Iterable[pytest.Item]) -> list[Holder]:
    """Return what holds a promise, in the order in which the promise names it.

    Args:
        promise: one of :func:`promises`.
        items: all tests there are, with the markers of :mod:`compat_tests.tiers`.
    """
    cells: dict[str, dict[str, bool]] = {name: {} for name in promise.held_by}
    for item in items:
        function = item.nodeid.partition("[")[0]
        for name in {function, function.partition("::")[0]} & cells.keys():
            broker = broker_of(item) or NO_BROKER
            is_on_push = item.get_closest_marker("push") is not None
            cells[name][broker] = cells[name].get(broker, False) or is_on_push
    found = []
    for name, brokers in cells.items():
        in_order = sorted(brokers, key=(NO_BROKER, *KINDS).index)
        on_push = tuple(each for each in in_order if brokers[each])
        found.append(Holder(name, on_push, tuple(each for each in in_order if not brokers[each])))
    return found


def page(items: Sequence[pytest.Item]) -> str:
    """Return the text of PROMISES.md."""
    lines = [_HEAD]
    for each in promises():
        lines += [f"{each.text}\n", *_TABLE]
        for holder in holders(each, items):
            name = holder.name.removeprefix("compat_tests/")
            brokers = (", ".join(each) for each in (holder.on_push, holder.only_in_all))
            lines.append(f"| `{name}` | {' | '.join(brokers)} |")
        lines.append("")
    return "\n".join(lines)


class Collected:
    """A plugin of pytest that keeps all tests it collects."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.items = list(items)


def collect() -> list[pytest.Item]:
    """Return all tests there are, which takes some seconds.

    Raises:
        RuntimeError: pytest cannot collect them.
    """
    collected = Collected()
    paths = [str(ROOT / each) for each in DIRECTORIES]
    code = pytest.main(["--collect-only", "-qq", "--no-header", *paths], plugins=[collected])
    if code != pytest.ExitCode.OK:
        raise RuntimeError(f"pytest ended with {code!r}.")
    return collected.items


if __name__ == "__main__":
    PAGE.write_text(page(collect()))
    sys.exit(0)
