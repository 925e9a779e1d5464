"""Writes the list of messages into docs/troubleshooting.md: `python docs/messages.py`. A test compares them.

The messages are read from the code: the text of every exception that is raised, made or tabled, and of every
log record from warning on. What is filled in at run time stands as `…`.
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
# Modules whose tables map codes of a database, or kinds of errors, to texts.
TABLES = {
    "connect_errors.py", "errors.py", "failures.py", "file_identity.py", "int32_ids.py", "safety_settings.py"
}  # fmt: skip
_VERBS = (
    "add|allow|ask|begin|check|choose|close|connect|copy|correct|create|give|grant|install|leave|let|log in|"
    "look|lower|make|mount|move|name|put|raise|renew|report|restart|restore|revoke|run|serve|set|stop|try|turn|"
    "unset|use|write"
)
# A text that names its own fix has one of these.
FIX = re.compile(
    rf"(?:; |: |, |\. |, or |\()(?:please )?(?:{_VERBS})\b|\bmust (?:be|name|use)\b|\bcan only be\b"
    r"|deletes there|; 0: the server's|: the server's own"
)
# What takes bytes apart: these texts reach a client that breaks a protocol, or stand within another message.
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
    module: str  # its path
    logged: bool


def shown(text: str) -> str:
    """On one line, what is filled in at run time as an ellipsis."""
    text = re.sub(r"%(?:\.\d+f|[srd])", "…", text)
    return re.sub(r"\s+", " ", text).strip()


def texts(node: ast.expr | None, names: dict[str, list[str]]) -> list[str]:
    """What an expression may be as a text; empty where it holds none."""
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
    """Values of the dicts and tuples at a module's top, and what its functions return."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from (value for value in node.values if value is not None)
        elif isinstance(node, ast.Tuple):
            yield from node.elts[1:]  # the first is what is looked for
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
    """Each once, in the order of the code."""
    found: dict[tuple[str, bool], Message] = {}
    for path in sorted((ROOT / "kine").rglob("*.py")):
        if "_pb2" not in path.name:
            for message in of_module(path):
                found.setdefault((message.text, message.logged), message)
    return list(found.values())


def quoted(text: str) -> set[str]:
    """The messages that a page's tables quote in their first column."""
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    return {message for row in rows for message in re.findall(r"`([^`]*)`", row.replace("\\|", "|"))}


def listed(page_text: str) -> list[tuple[str, list[str]]]:
    """What no table of the page quotes, by heading."""
    known = quoted(page_text)
    groups: dict[str, list[str]] = {}
    for message in messages():
        if message.text in known:
            continue
        heading = next((why for where, why in PROTOCOLS.items() if message.module.startswith(where)), "")
        groups.setdefault(heading, []).append(message.text)
    return [(heading, sorted(set(found))) for heading, found in sorted(groups.items())]


def page(text: str) -> str:
    """The page's text with the list as the code has it now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines: list[str] = []
    for heading, found in listed(before + after):
        lines += [*([heading, ""] if heading else []), *(f"- `{each}`" for each in found), ""]
    return before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
