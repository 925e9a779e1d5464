"""List of messages for docs/troubleshooting.md, written by `python docs/messages.py`. A test compares them.

The messages are read from the code: the texts of all exceptions that are raised, constructed or listed in a
table, and of all log records from warning on. A part that is filled in at run time is shown as `…`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("troubleshooting.md")
BEGIN, END = "<!-- messages: written by docs/messages.py -->\n", "<!-- end of messages -->\n"

LEVELS = {"warning", "error", "exception", "critical"}
# Modules with tables that map error codes of a database, or kinds of errors, to texts.
TABLES = {
    "connect_errors.py", "errors.py", "failures.py", "file_identity.py", "int32_ids.py", "safety_settings.py"
}  # fmt: skip
_VERBS = (
    "add|allow|ask|begin|check|choose|close|connect|copy|correct|create|give|grant|install|leave|let|log in|"
    "look|lower|make|mount|move|name|put|raise|renew|report|restart|restore|revoke|run|serve|set|stop|try|turn|"
    "unset|use|write"
)
# A text that names its own fix contains one of these.
FIX = re.compile(
    rf"(?:; |: |, |\. |, or |\()(?:please )?(?:{_VERBS})\b|\bmust (?:be|name|use)\b|\bcan only be\b"
    r"|deletes there|; 0: the server's|: the server's own"
)
# Parsers: their texts reach a client that violates a protocol, or are part of another message.
_RULES = (
    "Rules of HTTP/2 and gRPC that a client has broken; its stream or connection ends. Use a client library"
    " that keeps them."
)
_HTTP = "Plain HTTP, on the metrics address and the clients' port. Correct the request."
_DAMAGED = "What a file or a value in a NATS bucket is damaged by. Restore it from a backup."
PROTOCOLS = {
    "kine/transport/": _RULES,
    "kine/remote/forwarding.py": _RULES,
    "kine/etcd/health_reflection.py": _RULES,
    "kine/observe/metrics_server.py": _HTTP,
    "kine/observe/profiling.py": _HTTP,
    "kine/drivers/nats/s2.py": _DAMAGED,
    "kine/etcd/bbolt.py": _DAMAGED,
    "kine/identity/ccache_format.py": _DAMAGED,
}


class Message(NamedTuple):
    text: str
    module: str  # the module's path
    logged: bool


def shown(text: str) -> str:
    """The message on one line, with an ellipsis for each part that is filled in at run time."""
    text = re.sub(r"%(?:\.\d+f|[srd])", "…", text)
    return re.sub(r"\s+", " ", text).strip()


def texts(node: ast.expr | None, names: dict[str, list[str]]) -> list[str]:
    """The texts that an expression can evaluate to; empty if it contains none."""
    match node:
        case ast.Constant(value=str(value)):
            return [value]
        case ast.JoinedStr(values=values):
            parts = [""]
            for value in values:
                inner = value.value if isinstance(value, ast.FormattedValue) else value
                known = texts(inner, names) if isinstance(inner, ast.Constant | ast.Name) else []
                parts = [before + after for before in parts for after in known or ["…"]]
            return parts
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            lefts, rights = texts(left, names), texts(right, names)
            if not lefts and not rights:
                return []
            return [one + other for one in lefts or ["…"] for other in rights or ["…"]]
        case ast.BinOp(left=left, op=ast.Mod()):
            return texts(left, names)
        case ast.IfExp(body=body, orelse=orelse):
            return texts(body, names) + texts(orelse, names)
        case ast.Name(id=name):
            return names.get(name, [])
        case ast.Call(func=ast.Attribute(value=value, attr="format")):
            return texts(value, names)
    return []


def _constants(tree: ast.Module) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = texts(value, names)
    return names


def _tabled(tree: ast.Module) -> Iterator[ast.expr]:
    """The values of a module's dicts and tuples, and of the returns of its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from (value for value in node.values if value is not None)
        elif isinstance(node, ast.Tuple):
            yield from node.elts[1:]  # the first element is the key
        elif isinstance(node, ast.Return) and node.value is not None:
            yield node.value


def of_module(path: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text())
    names = _constants(tree)
    module = str(path.relative_to(ROOT))

    def each(node: ast.expr, *, logged: bool) -> Iterator[Message]:
        for text in texts(node, names):
            text = shown(text)
            if len(re.findall(r"[A-Za-z]{2,}", text)) >= (1 if logged else 2):
                yield Message(text, module, logged)

    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if re.fullmatch(rf"_?log\.(?:{'|'.join(LEVELS)})|.*\.warn|.*warnings\.append", name):
            yield from each(node.args[0], logged=True)
        elif re.search(r"(Error|BadParameter|refusal|_unreadable)$", name):
            for argument in node.args:
                yield from each(argument, logged=False)
    if path.name in TABLES:
        for value in _tabled(tree):
            for message in each(value, logged=False):
                if " " in message.text and not re.search(r"\.\*|\\S|\bSELECT\b", message.text):
                    yield message


@cache
def messages() -> list[Message]:
    """All messages without duplicates, in the order of the code."""
    found: dict[tuple[str, bool], Message] = {}
    for path in sorted((ROOT / "kine").rglob("*.py")):
        if "_pb2" not in path.name:
            for message in of_module(path):
                found.setdefault((message.text, message.logged), message)
    return list(found.values())


def quoted(text: str) -> set[str]:
    """The messages quoted in the first column of a page's tables."""
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    return {message for row in rows for message in re.findall(r"`([^`]*)`", row.replace("\\|", "|"))}


def listed(page_text: str) -> list[tuple[str, list[str]]]:
    """The messages that no table of the page quotes, by heading."""
    known = quoted(page_text)
    groups: dict[str, list[str]] = {}
    for message in messages():
        if message.text in known:
            continue
        heading = next((why for where, why in PROTOCOLS.items() if message.module.startswith(where)), "")
        groups.setdefault(heading, []).append(message.text)
    return [(heading, sorted(set(found))) for heading, found in sorted(groups.items())]


def page(text: str) -> str:
    """The page's text with the list from the current code."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines: list[str] = []
    for heading, found in listed(before + after):
        lines += [*([heading, ""] if heading else []), *(f"- `{each}`" for each in found), ""]
    return before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
