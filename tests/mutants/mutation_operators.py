"""Mutation operators: small changes of a source file, as an engineer makes by mistake.

They are found in its syntax tree. Not mutated is what no test could be asked to notice: annotations, log
lines, texts, assertions, defaults, and what a module does while it is imported (its tuning constants above
all).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_TRIVIAL = {
    "min",
    "max",
    "isinstance",
    "cast",
    "getattr",
    "hasattr",
}  # with their arguments swapped, nothing works, or all does
_SILENT = {"log", "logging", "warnings", "_log"}


@dataclass(frozen=True, slots=True)
class Mutant:
    file: str  # from the tree's root
    function: str  # qualified
    line: int  # the first, from 1
    kind: str
    start: int  # in bytes of the file
    stop: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """A name that is stable while the function has this text only once; lines may move."""
        return f"{self.file}::{self.function}: {shown(self.before)} -> {shown(self.after)}"

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.stop :]


def shown(text: str) -> str:
    return " ".join(text.split())


def mutants(root: Path, file: str) -> list[Mutant]:
    source = (root / file).read_bytes()
    return _Finder(file, source).found


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str, source: bytes) -> None:
        self.file = file
        self.source = source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.scope: list[str] = []
        self.inside = 0  # functions
        self.found: list[Mutant] = []
        self.visit(ast.parse(source))

    # ---- where

    def _at(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def _text(self, node: ast.AST) -> str:
        start, stop = self._span(node)
        return self.source[start:stop].decode()

    def _add(self, node: ast.AST, kind: str, after: str, *, outer: ast.AST | None = None) -> None:
        """Changes `node` to `after`; `outer` gives the context, if the node alone says too little."""
        if not self.inside:
            return
        start, stop = self._span(outer or node)
        before = self.source[start:stop].decode()
        if outer is not None:
            inner_start, inner_stop = self._span(node)
            after = self.source[start:inner_start].decode() + after + self.source[inner_stop:stop].decode()
        line = node.lineno  # type: ignore[attr-defined]
        self.found.append(Mutant(self.file, ".".join(self.scope), line, kind, start, stop, before, after))

    # ---- what is gone into, and what is not

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.scope.append(node.name)
        self.inside += 1
        for statement in node.body:
            self.visit(statement)
        self.inside -= 1
        self.scope.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815, as ast names it

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        inside, self.inside = self.inside, 0
        self.scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()
        self.inside = inside

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    # ---- statements

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(value, ast.Constant) or _is_silent(value):
            return
        if isinstance(value, ast.Call):
            self._add(node, "call dropped", "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._add(node, "assignment dropped", "pass")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "assignment dropped", "pass")
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._add(node, "deletion dropped", "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add(node, "continue dropped", "pass")

    def visit_Break(self, node: ast.Break) -> None:
        self._add(node, "break dropped", "pass")

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "raise dropped", "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._add(node, "return dropped", "pass")
        else:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if not isinstance(node.test, ast.Compare | ast.UnaryOp):
            self._add(node.test, "condition negated", f"not ({self._text(node.test)})")
        self.generic_visit(node)

    # ---- expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            after = (
                f"{self._text(node.left)} {_COMPARISONS[type(node.ops[0])]} {self._text(node.comparators[0])}"
            )
            self._add(node, "comparison", after)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = " or " if isinstance(node.op, ast.And) else " and "
        self._add(node, "boolean operator", word.join(f"({self._text(value)})" for value in node.values))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add(node, "not dropped", f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Add | ast.Sub) and not any(
            (isinstance(side, ast.Constant) and isinstance(side.value, str))
            or isinstance(side, ast.JoinedStr)
            for side in (node.left, node.right)
        ):
            sign = "-" if isinstance(node.op, ast.Add) else "+"
            self._add(node, "sign", f"{self._text(node.left)} {sign} ({self._text(node.right)})")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load):
            index = self._text(node.slice)
            swapped = {"0": "-1", "-1": "0", "1": "0"}.get(index)
            if swapped is not None:
                self._add(node.slice, "index", swapped, outer=node)
                self.visit(node.value)
                return
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _is_silent(node):
            return
        function = node.func
        if isinstance(function, ast.Name) and function.id in _NAMES:
            self._add(function, "name", _NAMES[function.id], outer=node)
        trivial = isinstance(function, ast.Name) and function.id in _TRIVIAL
        if (
            len(node.args) == 2
            and not node.keywords
            and not trivial
            and not any(_is_odd(arg) for arg in node.args)
        ):
            first, second = map(self._text, node.args)
            if first != second and isinstance(function, ast.Name | ast.Attribute):
                self._add(node, "arguments swapped", f"{self._text(function)}({second}, {first})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if value is True or value is False:
            self._add(node, "constant", str(not value))
        elif type(value) is int:
            self._add(node, "constant", "1" if value == 0 else "0" if value == 1 else str(value + 1))


def _is_silent(node: ast.AST) -> bool:
    """Whether it is a log line."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    while isinstance(function, ast.Attribute):
        function = function.value
    return isinstance(function, ast.Name) and function.id in _SILENT


def _is_odd(node: ast.AST) -> bool:
    return isinstance(node, ast.Starred | ast.Constant | ast.JoinedStr | ast.Lambda | ast.GeneratorExp)


def functions(source: bytes) -> Iterator[tuple[str, int, int]]:
    """Each function's qualified name, first and last line; outer functions first."""

    def of(body: list[ast.stmt], scope: str) -> Iterator[tuple[str, int, int]]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{scope}.{node.name}" if scope else node.name
                if not isinstance(node, ast.ClassDef):
                    assert node.end_lineno is not None
                    yield name, node.lineno, node.end_lineno
                yield from of(node.body, name)

    yield from of(ast.parse(source).body, "")
