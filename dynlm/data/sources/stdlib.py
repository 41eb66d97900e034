"""The embedded corpus: the documentation that the running Python's standard library carries in its own source.

It needs no download and no network. Modules are parsed and never imported, so reading runs none of their code.
Another Python version is another corpus: figures on it name the version.
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

from dynlm.data.article import Article
from dynlm.data.sources.source import Source, with_held_out
from dynlm.errors import UserError

FEWEST_WORDS = 50
"""Modules with less text than this are left out."""
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
_HELP_TOPICS = "pydoc_data/topics.py"

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def stdlib_source(hold_out_every: int, folder: Path | None = None) -> Source:
    """The standard library as a source whose every n-th article is held out; ``folder`` is this Python's where unset.

    Raises UserError where the folder holds no Python source, as in Pythons that ship it zipped or compiled.
    """
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    if not (folder / "abc.py").is_file():
        raise UserError("holds no source of the standard library", folder, "give your own text with --corpus.path")
    name = f"standard library of Python {platform.python_version()}"
    return Source(name, with_held_out({"train": lambda: iter(_all_articles(folder))}, hold_out_every))


@functools.cache
def _all_articles(folder: Path) -> tuple[Article, ...]:
    """Parsing every module takes seconds, and every split needs it: once a process."""
    return tuple(stdlib_articles(folder))


def stdlib_articles(folder: Path) -> Iterator[Article]:
    """One article a documented module, by dotted name, then one a topic of ``help()``, by name.

    Files that this Python cannot parse are passed over; ``where`` is relative to ``folder``.
    """
    for title, path in sorted(_modules(folder)):
        if (tree := _parsed(path)) is not None:
            text = module_text(title, tree)
            if len(text.split()) >= FEWEST_WORDS:
                yield Article(title, text, path.relative_to(folder).as_posix())
    for topic, text in sorted(_help_topics(folder / _HELP_TOPICS)):
        yield Article(f"help: {topic}", _plain(inspect.cleandoc(text)) + "\n", _HELP_TOPICS)


def module_text(name: str, tree: ast.Module) -> str:
    """A module's documentation as plain text: its name and docstring, then each documented definition's line and docs.

    Definitions stand in the order of the source, methods after their class under their dotted names.
    """
    blocks = [name, *filter(None, [ast.get_docstring(tree)])]
    for dotted, definition in _definitions(tree.body):
        if docstring := ast.get_docstring(definition):
            blocks += [_headline(dotted, definition), docstring]
    return _plain("\n\n".join(blocks)) + "\n"


def _headline(dotted: str, definition: _Definition) -> str:
    """``class Name(Base)`` or ``name(arguments) -> result``, without a body."""
    if isinstance(definition, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in [*definition.bases, *definition.keywords])
        return f"class {dotted}({bases})" if bases else f"class {dotted}"
    result = f" -> {ast.unparse(definition.returns)}" if definition.returns else ""
    return f"{dotted}({ast.unparse(definition.args)}){result}"


def _definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, _Definition]]:
    """Classes and functions with their dotted names, also those under a module's ``if`` and ``try``."""
    for node in body:
        if isinstance(node, _Definition):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions([*node.body, *node.orelse, *getattr(node, "finalbody", [])], prefix)


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of each module of the library, without tests and installed packages."""
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        if _LEFT_OUT.isdisjoint(parts) and all(part.isidentifier() for part in parts):
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _parsed(path: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the library's own strings
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _help_topics(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of the topics of ``help()``, which are one dictionary literal."""
    tree = _parsed(path)
    for node in tree.body if tree else []:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            yield from ((str(topic), str(text)) for topic, text in topics.items())


def _plain(text: str) -> str:
    """Spell out what is no text: the NUL characters and lone surrogates that escapes in docstrings make."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
