"""The embedded corpus: the documentation in the source of the running Python's standard library.

It needs no download. Modules are parsed and never imported, so none of their code runs. Each Python version is another
corpus: results name the version.
"""

from __future__ import annotations

import ast
import inspect
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from dynlm.data.options import CorpusOptions
from dynlm.data.sources.docstrings import escape, module_articles, parse
from dynlm.data.sources.source import SOURCES, Article, Source
from dynlm.errors import UserError

_EXCLUDED = frozenset({"site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo"})
_HELP_TOPICS = "pydoc_data/topics.py"


@SOURCES.register("stdlib")
def open_stdlib(corpus: CorpusOptions, folder: Path | None = None) -> Source:
    """Open the standard library in ``folder``, by default that of this Python.

    Raises UserError if the folder has no Python source, as in Pythons that ship it zipped or compiled.
    """
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    if not (folder / "abc.py").is_file():
        raise UserError("holds no source of the standard library", folder, "give your own text with --corpus.path")
    name = f"standard library of Python {platform.python_version()}"
    return Source(name, {"train": lambda: stdlib_articles(folder)})


def stdlib_articles(folder: Path) -> Iterator[Article]:
    """Yield an article for each documented module, by dotted name, then for each topic of ``help()``.

    Files that this Python cannot parse are skipped; ``where`` is relative to ``folder``.
    """
    yield from module_articles(folder, excluded=_EXCLUDED)
    tree = parse(folder / _HELP_TOPICS)
    for node in tree.body if tree else []:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):  # All topics are one literal.
            for topic, text in sorted(ast.literal_eval(node.value).items()):
                yield Article(f"help: {topic}", escape(inspect.cleandoc(text)) + "\n", _HELP_TOPICS)
