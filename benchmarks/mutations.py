"""Small faults for a module's source: each mutant differs from it in one position."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclass(frozen=True)
class Mutant:
    """A module's source with one change: its line, the code before and after, and the whole text."""

    module: str
    line: int
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        return f"dynlm/{self.module}:{self.line}  {self.before} -> {self.after}"


def mutants(module: str, source: str) -> list[Mutant]:
    """Return every mutant of a module's ``source``, in the order of position. Each is Python that parses."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    data = source.encode()
    made = []
    for node, replacement in _changes(ast.parse(source)):
        assert node.end_lineno is not None and node.end_col_offset is not None
        first = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before, after = data[first:end].decode(), ast.unparse(replacement)
        put = after if isinstance(replacement, ast.stmt) else f"({after})"
        text = (data[:first] + put.encode() + data[end:]).decode()
        ast.parse(text)
        made.append(Mutant(module, node.lineno, on_one_line(before), on_one_line(after), text))
    return made


def on_one_line(text: str, longest: int = 90) -> str:
    """Return a text on one line, shortened to ``longest`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _changes(tree: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.stmt | ast.expr, ast.stmt | ast.expr]]:
    """Yield (node, replacement) for all nodes of a tree that can be replaced."""
    if isinstance(tree, ast.stmt):
        if in_function:
            yield from ((tree, other) for other in _other_statements(tree))
    elif isinstance(tree, ast.expr):
        yield from ((tree, other) for other in _other_expressions(tree))
    within = in_function or isinstance(tree, ast.FunctionDef)
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            # Before Python 3.12 positions within an f-string are not those in the file.
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                if name == "test" and isinstance(child, ast.expr) and not _is_not(child):
                    yield child, ast.UnaryOp(ast.Not(), child)
                yield from _changes(child, within)


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


_DROPPED = (ast.Assign, ast.AugAssign, ast.Raise, ast.Delete, ast.Continue, ast.Break)


def _other_statements(node: ast.stmt) -> Iterator[ast.stmt]:
    match node:
        case ast.Return(ast.Constant(None)) | ast.Return(None):
            pass
        case ast.Return():
            yield ast.Return(ast.Constant(None))
        case ast.Expr(ast.Constant() | ast.Yield() | ast.YieldFrom()):
            pass
        case ast.Expr():
            yield ast.Pass()
        case _ if isinstance(node, _DROPPED):
            yield ast.Pass()


def _other_expressions(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(left, ops, comparators):
            for place, op in enumerate(ops):
                yield ast.Compare(left, [*ops[:place], _COMPARED[type(op)](), *ops[place + 1 :]], comparators)
        case ast.BinOp(left, op, right) if type(op) in _COMPUTED:
            yield ast.BinOp(left, _COMPUTED[type(op)](), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.Constant(value) if isinstance(value, bool):
            yield ast.Constant(not value)
        case ast.Constant(value) if isinstance(value, int | float):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)


def sample_mutants(sources: dict[str, str], seed: int, count: int) -> list[Mutant]:
    """Return ``count`` mutants, or all, of modules given as {module: source}, the modules in turn."""
    waiting = {}
    for module, source in sources.items():
        waiting[module] = mutants(module, source)
        random.Random(f"{seed} {module}").shuffle(waiting[module])
    found: list[Mutant] = []
    while len(found) < count and any(waiting.values()):
        found += [waiting[module].pop() for module in sources if waiting[module]]
    return found[:count]
