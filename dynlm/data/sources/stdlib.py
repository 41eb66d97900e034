"""The embedded corpus: the documentation in the source of the running Python's standard library.

It needs no download. Modules are parsed and never imported, so none of their code runs. Each Python version is another
corpus: results name the version.
"""

from __future__ import annotations

import ast
import functools
import inspect
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from dynlm.data.options import CorpusOptions
from dynlm.data.sources.source import SOURCES, Article, Source
from dynlm.errors import UserError

_MIN_WORDS = 50
"""Modules with less text are left out."""
_EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
_HELP_TOPICS = "pydoc_data/topics.py"

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@SOURCES.register("stdlib")
def open_stdlib(corpus: CorpusOptions, folder: Path | None = None) -> Source:
    """Open the standard library in ``folder``, by default that of this Python.

    Raises UserError if the folder has no Python source, as in Pythons that ship it zipped or compiled.
    """
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    if not (folder / "abc.py").is_file():
        raise UserError("holds no source of the standard library", folder, "give your own text with --corpus.path")
    name = f"standard library of Python {platform.python_version()}"
    return Source(name, {"train": lambda: iter(_cached_articles(folder))})


def stdlib_articles(folder: Path) -> Iterator[Article]:
    """Yield an article for each documented module, by dotted name, then for each topic of ``help()``.

    Files that this Python cannot parse are skipped; ``where`` is relative to ``folder``.
    """
    for title, path in sorted(_modules(folder)):
        if (tree := _parse(path)) is not None:
            text = module_text(title, tree)
            if len(text.split()) >= _MIN_WORDS:
                yield Article(title, text, path.relative_to(folder).as_posix())
    tree = _parse(folder / _HELP_TOPICS)
    for node in tree.body if tree else []:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):  # All topics are one literal.
            for topic, text in sorted(ast.literal_eval(node.value).items()):
                yield Article(f"help: {topic}", _escape(inspect.cleandoc(text)) + "\n", _HELP_TOPICS)


@functools.cache
def _cached_articles(folder: Path) -> tuple[Article, ...]:
    """Return all articles, which takes seconds: once a process, for all splits."""
    return tuple(stdlib_articles(folder))


def module_text(name: str, tree: ast.Module) -> str:
    """Return a module's documentation: its name and docstring, then signature and docstring of each definition.

    Definitions are in the order of the source, methods after their class under dotted names.
    """
    blocks = [name, *filter(None, [ast.get_docstring(tree)])]
    for dotted, definition in _definitions(tree.body):
        if docstring := ast.get_docstring(definition):
            blocks += [_signature(dotted, definition), docstring]
    return _escape("\n\n".join(blocks)) + "\n"


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


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield dotted name and file of each module, without tests and installed packages."""
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        if _EXCLUDED.isdisjoint(parts) and all(part.isidentifier() for part in parts):
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _parse(path: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Invalid escapes in the library's own strings.
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _escape(text: str) -> str:
    """Escape NUL characters and lone surrogates, which escapes in docstrings can make."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
