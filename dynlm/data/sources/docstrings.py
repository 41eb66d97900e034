"""Articles from Python source, its docstrings or all of it: a module is an article, parsed and never imported."""

from __future__ import annotations

import ast
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from dynlm.data.sources.source import Article

MIN_WORDS = 50
"""Modules with less text are left out."""
TextOf = Callable[[str, Path], str]
"""Returns the text of the module of a dotted name in a file; empty where it has none."""
_TESTS = {"test", "tests", "__pycache__"}

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documentation(name: str, path: Path) -> str:
    """Return a module's documentation; empty where this Python cannot parse the file."""
    tree = parse(path)
    return "" if tree is None else module_text(name, tree)


def source_code(name: str, path: Path) -> str:
    """Return a module's source code, with an end of its last line; empty where the file cannot be decoded."""
    try:
        code = importlib.util.decode_source(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    return escape(code if code.endswith("\n") else f"{code}\n")


def module_articles(
    folder: Path, package: str = "", excluded: frozenset[str] = frozenset(), text_of: TextOf = documentation
) -> Iterator[Article]:
    """Yield an article for each module below ``folder``, by dotted name, which begins with ``package``.

    Tests, parts of a path that are in ``excluded`` and modules of little text are skipped. ``where`` is relative to
    ``folder``, or to the folder that holds the package.
    """
    top = folder.parent if package else folder
    for title, path in sorted(_modules(folder, package, excluded)):
        if (article := module_article(title, path, top, text_of)) is not None:
            yield article


@functools.cache  # Parsing a large package takes seconds: once a process, for all splits.
def module_article(title: str, path: Path, top: Path, text_of: TextOf = documentation) -> Article | None:
    """Return the article of a module in a file below ``top``; None where it has little text."""
    text = text_of(title, path)
    return Article(title, text, path.relative_to(top).as_posix()) if len(text.split()) >= MIN_WORDS else None


def module_text(name: str, tree: ast.Module) -> str:
    """Return a module's documentation: its name and docstring, then signature and docstring of each definition.

    Definitions are in the order of the source, methods after their class under dotted names.
    """
    blocks = [name, *filter(None, [ast.get_docstring(tree)])]
    for dotted, definition in _definitions(tree.body):
        if docstring := ast.get_docstring(definition):
            blocks += [_signature(dotted, definition), docstring]
    return escape("\n\n".join(blocks)) + "\n"


def _signature(dotted: str, definition: _Definition) -> str:
    """Return ``class Name(Base)`` or ``name(arguments) -> result``."""
    if isinstance(definition, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in [*definition.bases, *definition.keywords])
        return f"class {dotted}({bases})" if bases else f"class {dotted}"
    result = f" -> {ast.unparse(definition.returns)}" if definition.returns else ""
    return f"{dotted}({ast.unparse(definition.args)}){result}"


def _definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, _Definition]]:
    """Yield classes and functions with their dotted names, also those under a module's ``if`` and ``try``."""
    for node in body:
        if isinstance(node, _Definition):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions([*node.body, *node.orelse, *getattr(node, "finalbody", [])], prefix)


def _modules(folder: Path, package: str, excluded: frozenset[str]) -> Iterator[tuple[str, Path]]:
    """Yield dotted name and file of each module."""
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        if excluded.union(_TESTS).isdisjoint(parts) and all(part.isidentifier() for part in parts):
            names = parts[:-1] if parts[-1] == "__init__" else parts
            yield ".".join([package, *names] if package else names), path


def parse(path: Path) -> ast.Module | None:
    """Return the syntax tree of a file, or None if it cannot be read or parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Invalid escapes in the strings of the source.
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def escape(text: str) -> str:
    """Escape NUL characters and lone surrogates, which escapes in docstrings can make."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
