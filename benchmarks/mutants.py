"""How many small faults the tests notice: each is put into a copy of the tree, and the tests of its module are run.

    python -m benchmarks.mutants [--seed 0] [--count 20] [--modules memory/rules.py] [--seconds 1200] [--log FILE]

A mutant differs from the source in one place: a comparison, an operator of arithmetic, a number by 1, a truth value, a
negated condition, a dropped ``not``, ``and`` for ``or``, a statement left out, ``None`` returned. Those of one seed are
always drawn in the same order, so that a larger ``--count`` goes on where a smaller one ended. What is done stands in
the log, a line of JSON each, and is not done again while neither the module nor its tests change. Survivors are to be
looked at: some change nothing that can be observed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dynlm.errors import UserError
from dynlm.runtime.hashing import fingerprint

ROOT = Path(__file__).resolve().parents[1]
_COPIED = ("dynlm", "tests", "benchmarks", "scripts", "configs", "data", "docs", "README.md", "Makefile")
_TIMES_BASELINE, _AT_LEAST_SECONDS = 3.0, 30.0
"""A mutant's tests may take so many times what they take without it, and these seconds more."""

TESTS: dict[str, tuple[str, ...]] = {
    "memory/unroll.py": ("memory/test_sensitivities.py", "memory/test_unroll.py", "memory/test_capture.py"),
    "memory/segment.py": (
        "memory/test_guard.py",
        "memory/test_unroll.py",
        "memory/test_capture.py",
        "memory/test_sensitivities.py",
    ),
    "memory/learning.py": (
        "memory/test_guard.py",
        "memory/test_unroll.py",
        "memory/test_rules.py",
        "memory/test_sensitivities.py",
    ),
    "memory/rules.py": (
        "memory/test_rules.py",
        "memory/test_unroll.py",
        "memory/test_coordinates.py",
        "model/test_native.py",
    ),
    "memory/guard.py": ("memory/test_guard.py",),
    "memory/hedge.py": ("memory/test_hedge.py", "memory/test_guard.py"),
    "memory/cache.py": (
        "memory/test_cache.py",
        "memory/test_cache_in_the_loop.py",
        "memory/test_cache_next.py",
        "memory/test_file.py",
    ),
    "corpus/streams.py": ("corpus/test_streams.py", "memory/test_unroll.py"),
    "corpus/headings.py": ("corpus/test_headings.py",),
    "evaluation/scores_file.py": (
        "evaluation/test_scores_file.py",
        "evaluation/test_named_scores.py",
        "evaluation/test_verify.py",
        "test_safe_files.py",
    ),
    "evaluation/compare.py": ("evaluation/test_compare.py", "study/test_results.py"),
    "evaluation/underway.py": ("evaluation/test_underway.py", "evaluation/test_score.py"),
    "evaluation/verify.py": ("evaluation/test_verify.py",),
    "training/checkpoints.py": ("training/test_checkpoints.py", "training/test_resuming.py"),
}
"""The tests of each module, as files below ``tests``."""

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
    """A module's source with one change: its line, what stood there, what stands there now, and the whole text."""

    module: str
    line: int
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        return f"dynlm/{self.module}:{self.line}  {self.before} -> {self.after}"


@dataclass(frozen=True)
class Outcome:
    """What came of a mutant; ``key`` is of its source and its tests. ``killed`` by a failing test or by time."""

    name: str
    module: str
    killed: bool
    why: str
    seconds: float
    key: str


def mutants(module: str, source: str) -> list[Mutant]:
    """Every mutant of a module's ``source``, in the order of their places. Each is Python that parses."""
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
        made.append(Mutant(module, node.lineno, _on_one_line(before), _on_one_line(after), text))
    return made


def _on_one_line(text: str, longest: int = 90) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _changes(tree: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.stmt | ast.expr, ast.stmt | ast.expr]]:
    """(a node, what may stand in its place), for all places of a tree."""
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
            # Before Python 3.12 the places within an f-string are not those in the file.
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


def drawn(sources: dict[str, str], seed: int, count: int) -> list[Mutant]:
    """``count`` mutants of modules given as {module: source}, the modules in turn; fewer where there are no more."""
    waiting = {}
    for module, source in sources.items():
        waiting[module] = mutants(module, source)
        random.Random(f"{seed} {module}").shuffle(waiting[module])
    found: list[Mutant] = []
    while len(found) < count and any(waiting.values()):
        found += [waiting[module].pop() for module in sources if waiting[module]]
    return found[:count]


class Tree:
    """A copy of the tree in which the tests of a module are run, with one of its mutants in its place."""

    def __init__(self, folder: Path, root: Path = ROOT):
        self.folder = folder
        for name in (*_COPIED, "pyproject.toml"):
            source = root / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, folder / name)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            # A mutant is of the same size and may be of the same second as the source that was compiled.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._seconds: dict[str, float] = {}

    def baseline(self, module: str) -> float:
        """Seconds of the module's tests without a mutant. Raises UserError where they do not pass."""
        if module not in self._seconds:
            begun = time.monotonic()
            code, said = self._run(module, None)
            if code:
                raise UserError(f"its tests fail without any mutant (pytest ends with {code}): {said}", module)
            self._seconds[module] = time.monotonic() - begun
        return self._seconds[module]

    def outcome(self, mutant: Mutant, key: str) -> Outcome:
        """Whether the tests notice ``mutant``."""
        limit = _TIMES_BASELINE * self.baseline(mutant.module) + _AT_LEAST_SECONDS
        path = self.folder / "dynlm" / mutant.module
        source, begun = path.read_text(encoding="utf-8"), time.monotonic()
        path.write_text(mutant.source, encoding="utf-8")
        try:
            code, said = self._run(mutant.module, limit)
        finally:
            path.write_text(source, encoding="utf-8")
        if code in (4, 5):
            raise UserError(f"pytest ends with {code}: {said}", mutant.module, "do the files in TESTS exist?")
        why = "the tests pass" if code == 0 else "time" if code is None else said
        return Outcome(mutant.name, mutant.module, code != 0, why, round(time.monotonic() - begun, 1), key)

    def _run(self, module: str, limit: float | None) -> tuple[int | None, str]:
        """(pytest's exit code, its last line) of the module's tests; None where they take longer than ``limit``."""
        files = [f"tests/{name}" for name in TESTS[module]]
        with tempfile.TemporaryDirectory() as aside:
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--basetemp", f"{aside}/t"]
            # In a group of its own, so that processes which the tests started end with it.
            running = subprocess.Popen(
                [*command, *files],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            try:
                said, _ = running.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                return None, ""
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()
        failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return running.returncode, _on_one_line((failed or said.splitlines() or [""])[-1], 200)


def key_of(mutant: Mutant, root: Path = ROOT) -> str:
    """A mark of a mutant's whole source and of its tests: with the same, the outcome is the same."""
    return fingerprint(mutant.name, mutant.source, *((root / "tests" / n).read_bytes() for n in TESTS[mutant.module]))


def logged(path: Path) -> dict[str, Outcome]:
    """The outcomes in a log, by key. A last line that was cut off is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            outcome = Outcome(**json.loads(line))
            found[outcome.key] = outcome
    return found


def summary(outcomes: Sequence[Outcome]) -> str:
    """The rate, that of each module, and the survivors."""
    all_of, killed = (Counter(each.module for each in outcomes if each.killed >= least) for least in (False, True))
    rows = [f"{killed[module]:4} of {count:4} killed  {module}" for module, count in all_of.items()]
    rows.append(f"{killed.total():4} of {all_of.total():4} killed")
    return "\n".join([*rows, *(f"survived: {each.name}" for each in outcomes if not each.killed)])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20, help="mutants, those in the log counted too")
    parser.add_argument("--modules", nargs="+", choices=list(TESTS), default=list(TESTS), metavar="MODULE")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant later than this")
    parser.add_argument("--log", type=Path, default=Path("runs/mutants.jsonl"))
    options = parser.parse_args()
    begun, known = time.monotonic(), logged(options.log)
    sources = {module: (ROOT / "dynlm" / module).read_text(encoding="utf-8") for module in options.modules}
    outcomes = []
    options.log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, options.log.open("a", encoding="utf-8") as log:
        tree = Tree(Path(folder))
        for mutant in drawn(sources, options.seed, options.count):
            key = key_of(mutant)
            if key not in known:
                if time.monotonic() - begun > options.seconds:
                    print("no time for more")
                    break
                known[key] = tree.outcome(mutant, key)
                log.write(json.dumps(asdict(known[key])) + "\n")
                log.flush()
            outcomes.append(known[key])
            shown = outcomes[-1]
            print(f"{'killed  ' if shown.killed else 'SURVIVED'}  {shown.name}  ({shown.seconds:.1f} s, {shown.why})")
            sys.stdout.flush()
    print(summary(outcomes))


if __name__ == "__main__":
    main()
