"""The sentences that the code prints, raises and writes into event logs, read from its source.

A part of a sentence that varies is a hole: ``<name>``, named after the expression that fills it.
Pages of the documentation quote sentences in this form, and may name a hole as they like.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from compat_tests.checkout import ROOT

PACKAGES = ("dagster_taskiq", "dagster_celery")
#: A placeholder of the ``%`` operator, as the functions of ``logging`` take it.
_PERCENT = re.compile(r"%[-.\d]*[sdgfr](?!\w)")
#: How many characters of its own a text has at least that is compared with a page.
SHORTEST = 8
_HOLE = re.compile(r"<[^<>\n]+>")
#: Functions that write an event into the log of a run, and at which argument they are given its
#: text; by keyword it is always ``message`` or ``text``.
WRITERS: Mapping[str, int] = {
    "report_engine_event": 0,
    "engine_event": 1,
    "step_worker_starting": 1,
    "step_worker_started": 2,
    "report_run_failed": 1,
    "report_run_canceled": 1,
    "end_run": 2,
    "report": 0,
    "_report": 1,
}
#: Of these, the methods whose names others have as well: the objects that are meant.
_RECEIVERS: Mapping[str, tuple[str, ...]] = {
    "report": ("log", "self._log", "step", "self._runs"),
    "_report": ("self",),
}
#: Names of expressions that say more in a page than those of the code.
_NAMES = {"key": "step", "shown": "url", "server": "url", "e": "error", "each": "name"}


@dataclass(frozen=True)
class Text:
    """A sentence, or several, of the code."""

    #: The file, below the root of the checkout.
    path: str
    text: str

    @cached_property
    def skeleton(self) -> str:
        """The text with a sign for each hole, whatever its name."""
        return skeleton(self.text)

    @cached_property
    def pattern(self) -> "re.Pattern[str] | None":
        """What the text looks like with its holes filled; ``None`` if it has few words."""
        words = self.skeleton.split("\0")
        if sum(map(len, words)) < SHORTEST or len(words) == 1:
            return None
        return re.compile(".*".join(map(re.escape, words)))

    @property
    def is_sentence(self) -> bool:
        """Whether it has a word of its own beside its holes."""
        return bool(re.search(r"\w\w", _HOLE.sub("", self.text)))


@cache
def skeleton(text: str) -> str:
    """Return a quoted sentence with a sign for each hole; holes side by side are one."""
    return re.sub("\0[\0]*", "\0", _HOLE.sub("\0", " ".join(text.split())))


def is_quoted(quote: str, texts: Iterable[Text]) -> bool:
    """Return whether some text of the code has a quoted sentence, or the part of one."""
    found = list(texts)
    return any(is_part(quote, each) for each in found) or any(
        is_filled(quote, each) for each in found
    )


def is_part(quote: str, text: Text) -> bool:
    """Return whether a quoted sentence is that of a text, or a part of it.

    It may have three dots at its end for what is left out.
    """
    part = skeleton(quote.removesuffix(" ..."))
    return len(part) >= SHORTEST and part in text.skeleton


def is_filled(quote: str, text: Text) -> bool:
    """Return whether a quoted sentence is that of a text, with words where the text has holes."""
    return text.pattern is not None and text.pattern.fullmatch(skeleton(quote)) is not None


@cache
def trees() -> Mapping[str, ast.Module]:
    """Return each module of the packages, by its path below the root."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


@cache
def all_texts() -> tuple[Text, ...]:
    """Return every text of the code that has a space in it, docstrings apart."""
    found: dict[Text, None] = {}
    for path, tree in trees().items():
        inner = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
            if part is not node
        }
        inner |= {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) not in inner and (text := _literal(node)) and " " in text:
                found[Text(path, text)] = None
    return tuple(found)


@cache
def error_texts(*kinds: str) -> tuple[Text, ...]:
    """Return the texts with which errors of some classes are made, by the names of the classes."""
    return tuple(text for kind in kinds for text in texts_given_to(kind, 0))


@cache
def texts_given_to(name: str, position: int, of: str = "") -> tuple[Text, ...]:
    """Return the texts that the code gives to a function as an argument.

    Args:
        name: the name of the function or method.
        position: which argument it is.
        of: the object, if it is a method of that one only.
    """
    found: dict[Text, None] = {}
    for path, function, call in _calls():
        if _name(call.func) != name or len(call.args) <= position:
            continue
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        if not of or (owner is not None and ast.unparse(owner) == of):
            resolved = _resolve(call.args[position], path, function)
            found.update((Text(path, text), None) for text in resolved)
    return tuple(found)


@cache
def event_texts() -> tuple[Text, ...]:
    """Return the texts of the events that the code writes into the logs of runs."""
    found: dict[Text, None] = {}
    for path, function, call in _calls():
        name = _name(call.func)
        if name not in WRITERS:
            continue
        receivers = _RECEIVERS.get(name)
        if receivers:
            receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
            if receiver is None or ast.unparse(receiver) not in receivers:
                continue
        keywords = {each.arg: each.value for each in call.keywords}
        text = keywords.get("message", keywords.get("text"))
        position = WRITERS[name]
        if text is None and call.args:
            text = call.args[min(position, len(call.args) - 1)]
        if text is not None:
            found.update((Text(path, each), None) for each in _resolve(text, path, function))
    return tuple(found)


@cache
def _calls() -> tuple[tuple[str, ast.AST, ast.Call], ...]:
    """Return every call, with the path of its module and the function that it is in."""
    return tuple(
        (path, function, call)
        for path, tree in trees().items()
        for function, call in _calls_in(tree, tree)
    )


def _calls_in(node: ast.AST, function: ast.AST) -> Iterator[tuple[ast.AST, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(child, ast.Call):
            yield function, child
        yield from _calls_in(child, child if is_function else function)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _resolve(node: ast.expr, path: str, function: ast.AST, depth: int = 0) -> list[str]:
    """Return the texts that an expression may stand for; none where only a caller knows it."""
    text = _literal(node)
    if text is not None:
        return [text] if _HOLE.sub("", text).strip(" .:") else []
    if depth > 3:
        return []
    parts: list[ast.expr] = []
    if isinstance(node, ast.IfExp):
        parts = [node.body, node.orelse]
    elif isinstance(node, ast.BoolOp):
        parts = node.values
    if parts:
        return [text for part in parts for text in _resolve(part, path, function, depth)]
    values: list[tuple[str, ast.AST, ast.expr]] = []
    if isinstance(node, ast.Name):
        values = [(path, function, each) for each in _assigned(node.id, function)]
        values = values or [(path, function, each) for each in _assigned(node.id, trees()[path])]
    elif isinstance(node, ast.Call):
        values = _returned(_name(node.func))
    elif isinstance(node, ast.Attribute):
        values = _returned(node.attr)
    return [t for where, scope, each in values for t in _resolve(each, where, scope, depth + 1)]


def _assigned(name: str, scope: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(scope):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            targets = [node.target]
        else:
            continue
        if node.value is not None and any(getattr(each, "id", "") == name for each in targets):
            yield node.value


def _returned(name: str) -> list[tuple[str, ast.AST, ast.expr]]:
    return [
        (path, node, each.value)
        for path, node in _functions().get(name, ())
        for each in ast.walk(node)
        if isinstance(each, ast.Return) and each.value is not None
    ]


@cache
def _functions() -> Mapping[str, list[tuple[str, ast.FunctionDef]]]:
    """Return the functions of all modules by their names, each with the path of its module."""
    found: dict[str, list[tuple[str, ast.FunctionDef]]] = {}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append((path, node))
    return found


def _literal(node: ast.AST) -> str | None:
    """Return the text of a literal, with its holes; ``None`` if it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _PERCENT.sub("<value>", node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = (_literal(node.left), _literal(node.right))
        return None if None in parts else "".join(filter(None, parts))
    if not isinstance(node, ast.JoinedStr):
        return None
    return "".join(
        _literal(part) or "" if isinstance(part, ast.Constant) else _constant(part)
        for part in node.values
    )


def _constant(part: ast.AST) -> str:
    """Return the value of a constant that fills a hole, or the hole."""
    name = getattr(getattr(part, "value", None), "id", "")
    values = _constants().get(name, ()) if name.isupper() else ()
    return next(iter(values)) if len(values) == 1 else f"<{_hole(part)}>"


@cache
def _constants() -> Mapping[str, set[str]]:
    """Return the texts that the modules give to names in capitals."""
    found: dict[str, set[str]] = {}
    for tree in trees().values():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                for target in node.targets:
                    if isinstance(target, ast.Name) and isinstance(node.value.value, str):
                        found.setdefault(target.id, set()).add(node.value.value)
    return found


def _hole(part: ast.AST) -> str:
    """Return a name for what fills a hole."""
    expression = part.value if isinstance(part, ast.FormattedValue) else part
    while isinstance(expression, ast.Call):
        is_method = isinstance(expression.func, ast.Attribute) and not expression.args
        expression = expression.func if is_method or not expression.args else expression.args[0]
    if isinstance(expression, ast.Attribute):
        name = expression.attr
        if name in ("strip", "rstrip", "lower", "upper"):
            return _hole(expression.value)
    else:
        name = getattr(expression, "id", "value")
    name = name.strip("_").lower()
    return _NAMES.get(name, name).replace("_", " ")
