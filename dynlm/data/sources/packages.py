"""Installed packages, a module an article, none of it imported: their documentation or their source code.

``docs:PACKAGE[,PACKAGE...]`` reads docstrings, ``code:PACKAGE[,PACKAGE...]`` all of the source. Either gives text that
is newer than a pretrained model: install a recent release of a package and read it. Results name the package's version.
Modules are in the order of their dotted names, package after package. Relatives thus stand side by side, which favours
a memory that is carried through the stream; under ``memory.reset article`` the order has no effect.

Packages repeat themselves: of transformers 5.24.0's 2,100 documented modules, 1,007 share more than half of their
8-grams of words with earlier ones (models are copied from one another and generated from modular files). A memory that
read the first copy predicts the second. Such near-duplicates are left out by default (``corpus.max_overlap``), before
the articles are split, so that no two splits hold copies either; 1,179 modules remain (data/README.md has the figures).
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from itertools import chain
from pathlib import Path

from dynlm.data.options import CorpusOptions
from dynlm.data.sources.docstrings import TextOf, documentation, module_article, module_articles, source_code
from dynlm.data.sources.source import SOURCES, Article, Source
from dynlm.errors import UserError

_NGRAM = 8
"""Words; docstrings share shorter phrases without being copies."""


@dataclass(frozen=True)
class _Package:
    name: str
    version: str
    path: Path
    """The folder of a package, or the file of a module."""

    def articles(self, text_of: TextOf) -> Iterator[Article]:
        if self.path.is_dir():
            return module_articles(self.path, self.name, text_of=text_of)
        article = module_article(self.name, self.path, self.path.parent, text_of)
        return iter([] if article is None else [article])


@SOURCES.register("docs:", "code:")
def open_packages(corpus: CorpusOptions) -> Source:
    """Open documentation or source code of the installed packages that ``corpus.source`` names after the colon.

    Raises UserError for a name that is none, a package that is not installed, and one without Python source.
    """
    what, _, names = corpus.source.partition(":")
    kind, text_of = ("documentation", documentation) if what == "docs" else ("source code", source_code)
    packages = [_find_package(name, what) for name in dict.fromkeys(names.split(","))]

    def articles() -> Iterator[Article]:
        modules = chain.from_iterable(each.articles(text_of) for each in packages)
        return distinct_articles(modules, corpus.max_overlap)

    name = f"{kind} of {', '.join(f'{each.name} {each.version}' for each in packages)}"
    if corpus.max_overlap != CorpusOptions.max_overlap:
        name += f" (overlap up to {corpus.max_overlap:g})"
    return Source(name, {"train": articles})


def distinct_articles(articles: Iterable[Article], max_overlap: float) -> Iterator[Article]:
    """Yield the articles of whose 8-grams of words at most a share ``max_overlap`` is in articles yielded before."""
    seen: set[int] = set()
    for article in articles:
        words = article.text.split()
        # Hashes of strings differ between processes; which are equal does not.
        grams = {hash(gram) for gram in zip(*(words[start:] for start in range(_NGRAM)), strict=False)}
        if len(grams & seen) <= max_overlap * len(grams):
            seen |= grams
            yield article


def _find_package(name: str, what: str) -> _Package:
    """Return an installed package or module, of which ``what`` is read. Finding a top-level name imports nothing."""
    if not name.isidentifier():
        raise UserError(
            f"corpus.source names {name!r}", do=f"write {what}:PACKAGE[,PACKAGE...], such as {what}:peft,torch"
        )
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError) as error:  # A module that was put in place without a specification.
        raise UserError(f"the package {name!r} cannot be found ({error})", "corpus.source") from error
    if spec is None:
        do = f"install it, or give the name that `import` takes: {what}:{name} reads the package {name}"
        raise UserError(f"the package {name!r} is not installed", "corpus.source", do)
    # Modules of the standard library that are part of the interpreter have a file too.
    origin = spec.origin if spec.has_location else getattr(spec.loader_state, "filename", None)
    file = Path(origin) if origin else None
    if file is None or file.suffix != ".py" or not file.is_file():
        kind = "is a namespace without source of its own" if spec.origin is None else "has no Python source"
        raise UserError(f"the package {name!r} {kind}", "corpus.source", "choose another package")
    return _Package(name, _version_of(name), file.parent if spec.submodule_search_locations else file)


def _version_of(name: str) -> str:
    if name in sys.stdlib_module_names:
        return f"of Python {platform.python_version()}"
    try:
        return version(name)
    except PackageNotFoundError:  # Its distribution has another name, or there is none.
        named = [distribution for distribution in packages_distributions().get(name, []) if distribution]
        return version(named[0]) if named else "(no version)"
