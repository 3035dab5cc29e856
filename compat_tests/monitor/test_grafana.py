"""``deploy/grafana``: the board and the alert rules ask for what the monitor serves."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import promql_parser
import pytest
import yaml

from compat_tests.checkout import ROOT
from compat_tests.monitor.test_metrics import Scrape
from compat_tests.monitors import running_monitor
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq.settings.settings import Settings

DIRECTORY = ROOT / "deploy" / "grafana"
#: The labels that Prometheus adds to everything that it scrapes.
OF_PROMETHEUS = {"instance"}
#: What Grafana puts in place of its own variables.
GRAFANA = {"$__rate_interval": "1m", "$__range": "1h"}
#: The columns of a board.
COLUMNS = 24

Json = dict[str, Any]


@dataclass
class Asked:
    """What an expression asks for: metrics, and labels of them."""

    #: Where the expression is, for a test that fails.
    where: str
    metrics: set[str] = field(default_factory=set)
    #: Each label that is named, with the metrics in the part of the expression that names it.
    labels: list[tuple[str, set[str]]] = field(default_factory=list)
    #: The labels that the results have; ``None`` for those of the metrics themselves.
    left: set[str] | None = None


def board() -> Json:
    found: Json = json.loads((DIRECTORY / "dashboard.json").read_text())
    return found


def panels() -> list[Json]:
    return [each for each in board()["panels"] if each["type"] != "row"]


def variables() -> dict[str, Json]:
    return {each["name"]: each for each in board()["templating"]["list"]}


def rules() -> list[Json]:
    groups = yaml.safe_load((DIRECTORY / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[Json]:
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> dict[str, set[str]]:
    """Return what the rules record under names of their own, with the labels."""
    found = {
        rule["record"]: asked(rule["record"], rule["expr"]).left
        for rule in rules()
        if "record" in rule
    }
    return {name: labels or set() for name, labels in found.items()}


def with_values(expression: str) -> str:
    """Return an expression of the board with something in place of each of its variables."""
    for name, value in {**GRAFANA, **{f"${name}": "x" for name in variables()}}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def asked(where: str, expression: str) -> Asked:
    """Return what an expression asks for."""
    found = Asked(where)
    tree = promql_parser.parse(expression)
    found.left = _left(tree)

    def visit(part: promql_parser.Expr) -> bool:
        if isinstance(part, promql_parser.VectorSelector):
            found.metrics.add(str(part.name))
            found.labels += [(each.name, {str(part.name)}) for each in part.matchers.matchers]
        for name in _named(part):
            for metrics in _sides(part):
                found.labels.append((name, metrics))
        return True

    promql_parser.walk(tree, visit)
    return found


def _named(part: promql_parser.Expr) -> Sequence[str]:
    """Return the labels by which a part of an expression groups or matches."""
    modifier = getattr(part, "modifier", None)
    if isinstance(part, promql_parser.AggregateExpr):
        return modifier.labels if modifier else []
    matching = getattr(modifier, "matching", None)
    return matching.labels if matching else []


def _sides(part: promql_parser.Expr) -> list[set[str]]:
    """Return the metrics in each operand of a part of an expression."""
    sides = []
    for name in ("expr", "lhs", "rhs"):
        operand = getattr(part, name, None)
        if operand is not None:
            metrics: set[str] = set()

            def visit(each: promql_parser.Expr, metrics: set[str] = metrics) -> bool:
                if isinstance(each, promql_parser.VectorSelector):
                    metrics.add(str(each.name))
                return True

            promql_parser.walk(operand, visit)
            sides.append(metrics)
    return sides


def _left(part: promql_parser.Expr) -> set[str] | None:
    """Return the labels of the results of an expression; ``None`` for those of its metrics."""
    if isinstance(part, promql_parser.AggregateExpr):
        if str(part.op) in ("topk", "bottomk"):
            return _left(part.expr)
        return set(part.modifier.labels) if part.modifier else set()
    if isinstance(part, promql_parser.BinaryExpr):
        return _left(part.lhs)
    if isinstance(part, promql_parser.ParenExpr):
        return _left(part.expr)
    if isinstance(part, promql_parser.Call):
        labels = [_left(each) for each in part.args]
        inner = next((each for each in labels if each is not None), None)
        return inner - {"le"} if inner is not None else None
    return None


def all_asked() -> Iterator[Asked]:
    """Yield what each expression of the board and of the rules asks for."""
    for panel in panels():
        for target in panel["targets"]:
            found = asked(f"panel {panel['title']}", with_values(target["expr"]))
            legends = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            assert found.left is None or set(legends) <= found.left, found
            yield found
    for name, variable in variables().items():
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert match, name
            found = asked(f"variable {name}", with_values(match[1]))
            found.labels.append((match[2], found.metrics))
            yield found
    for rule in rules():
        found = asked(rule.get("alert") or rule["record"], rule["expr"])
        used = re.findall(r"\$labels\.(\w+)", json.dumps(rule.get("annotations")))
        assert set(used) <= (found.left or set()), found
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, set[str]]:
    """The series of a monitor whose fleet has run something, each with its labels."""
    directory = tmp_path_factory.mktemp("grafana")
    settings = Settings(broker=f"sqlite:///{directory / 'queue.db'}")
    with (
        running_worker(settings, directory, "-i", USER_TASKS, "-q", "a", "-c", "1"),
        running_monitor(settings, directory) as monitor,
        open_sender(settings) as sender,
    ):
        eventually(lambda: monitor.get("/api/workers").json["workers"])
        sender.value(sender.send("add", 1, 2, queue_name="a"))
        sender.send("add", 1, 2, queue_name="nobody", priority=3)

        def complete() -> Scrape | None:
            scrape = Scrape(monitor)
            seen = {"dagster_taskiq_tasks_succeeded_total", "dagster_taskiq_queue_priority_waiting"}
            return scrape if seen <= scrape.labels.keys() else None

        return eventually(complete).labels


def test_each_expression_asks_for_what_the_monitor_serves(
    served: Mapping[str, set[str]],
) -> None:
    known = {**served, **recorded()}
    wrong = []
    for each in all_asked():
        wrong += [f"{each.where}: no metric {name}" for name in each.metrics - known.keys()]
        wrong += [
            f"{each.where}: {metric} has no label {label}"
            for label, metrics in each.labels
            for metric in metrics & known.keys()
            if label not in known[metric] | OF_PROMETHEUS
        ]
    assert wrong == []


def test_no_alert_looks_for_the_increase_of_what_may_begin_above_zero() -> None:
    increasing = [rule["alert"] for rule in alerts() if "increase(" in rule["expr"]]
    assert increasing == [], "a rule that is recorded sees the first of a new series too"


def test_what_is_wrong_in_an_expression_is_found() -> None:
    found = asked("here", 'sum by (host) (rate(a_total{x="1"}[5m])) / on (host) max by (host) (b)')
    assert found.metrics == {"a_total", "b"}
    assert found.left == {"host"}
    assert ("x", {"a_total"}) in found.labels
    assert ("host", {"a_total"}) in found.labels
    assert ("host", {"b"}) in found.labels
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        asked("here", "sum by (a (b)")


def test_the_board_is_one_that_grafana_10_imports() -> None:
    found = board()
    assert found["schemaVersion"] >= 38
    assert found["uid"] == "dagster-taskiq"
    assert "__inputs" not in found
    assert next(iter(variables())) == "datasource"
    ids = [each["id"] for each in found["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            # Beside another monitor, or workers that are scraped, all would be there twice.
            assert target["expr"].count('instance=~"$monitor"') == target["expr"].count("{"), target


def test_the_panels_of_the_board_do_not_overlap() -> None:
    places: set[tuple[int, int]] = set()
    for panel in board()["panels"]:
        at = panel["gridPos"]
        assert 0 <= at["x"] <= COLUMNS - at["w"], panel["title"]
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not own & places, panel["title"]
        places |= own
    assert len(places) == COLUMNS * (1 + max(y for _, y in places)), "there is a gap"


def test_each_alert_says_what_is_wrong_what_to_do_and_where_to_read_on() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["alert"].startswith("DagsterTaskiq")
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        texts = rule["annotations"]
        assert set(texts) == {"summary", "description", "runbook_url"}
        for text in (texts["summary"], texts["description"]):
            assert text.endswith("."), rule["alert"]
            assert len(re.findall(r"[.:;] |\.$", text)) <= 3, rule["alert"]
        url = urlsplit(texts["runbook_url"])
        page = ROOT / url.path.partition("/blob/main/")[2]
        assert not url.fragment or url.fragment in anchors(page), texts["runbook_url"]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
