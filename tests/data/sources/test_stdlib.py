"""The embedded corpus: modules are parsed, not imported, and give clean text."""

import ast
import inspect
import statistics
import sys
import sysconfig
from pathlib import Path

import pytest

from dynlm.data.articles import load_articles
from dynlm.data.options import CorpusOptions
from dynlm.data.sources.docstrings import module_text
from dynlm.data.sources.source import Article
from dynlm.data.sources.stdlib import open_stdlib, stdlib_articles
from dynlm.errors import UserError

MODULE = '''
"""What it is for."""
raise SystemExit("must not run")

if True:
    class Shelf(dict, metaclass=type):
        """Holds things.

            Deeper.
        Not so deep.
        """
        def put(self, thing, /, *, at: int = 3) -> None:
            """Puts one."""
        def undocumented(self): ...
        class Board:
            """One board."""
try:
    async def later(*args):
        """Comes \\0 later \\ud800."""
except ImportError:
    pass
'''

EXPECTED = """shelves

What it is for.

class Shelf(dict, metaclass=type)

Holds things.

    Deeper.
Not so deep.

Shelf.put(self, thing, /, *, at: int=3) -> None

Puts one.

class Shelf.Board

One board.

later(*args)

Comes \\0 later \\ud800.
"""


@pytest.fixture(scope="module")
def articles() -> dict[str, Article]:
    read = list(stdlib_articles(Path(sysconfig.get_paths()["stdlib"])))
    assert len({article.title for article in read}) == len(read)
    return {article.title: article for article in read}


def test_module_text():
    assert module_text("shelves", ast.parse(MODULE)) == EXPECTED


def test_articles_of_a_folder(tmp_path):
    docstring = '"""' + "word " * 60 + '"""'
    files = ("abc", "pack/__init__", "pack/inner", "pack/test/test_inner", "site-packages/foreign", "not-a-name")
    for name in files:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(docstring)
    (tmp_path / "short.py").write_text('"""Short."""')
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "nul.py").write_bytes(b'"""' + b"word " * 60 + b'\0"""')
    (tmp_path / "latin.py").write_bytes(b"# coding: latin-1\n" + b'"""caf\xe9 ' + b"caf\xe9 " * 60 + b'"""')
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data" / "topics.py").write_text("topics = {'with': 'With.\\n', 'assert': 'One '\n 'two.\\n'}")
    read = list(stdlib_articles(tmp_path))
    assert [a.title for a in read] == ["abc", "latin", "pack", "pack.inner", "help: assert", "help: with"]
    assert [a.where for a in read][2:5] == ["pack/__init__.py", "pack/inner.py", "pydoc_data/topics.py"]
    assert read[4].text == "One two.\n"
    assert "café" in read[1].text


def test_a_python_without_source_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"no source of the standard library; .*--corpus.path"):
        open_stdlib(CorpusOptions(), tmp_path)


def test_docstrings_of_this_python_are_included(articles):
    assert inspect.getdoc(statistics) in articles["statistics"].text
    assert inspect.getdoc(statistics.NormalDist.overlap) in articles["statistics"].text
    assert "NormalDist.overlap(self, other)" in articles["statistics"].text
    assert not any(title.startswith(("test.", "idlelib", "turtledemo")) for title in articles)


def test_the_corpus_is_large_and_clean(articles):
    assert sum(len(article.text.split()) for article in articles.values()) > 200_000
    assert len(articles) > 300
    for article in articles.values():
        assert "\0" not in article.text
        assert article.text.encode("utf-8")
        assert not Path(article.where).is_absolute()


def test_no_module_is_imported(articles):
    assert "turtle" in articles
    assert "turtle" not in sys.modules


def test_splits_are_interleaved(articles):
    in_order = list(articles.values())
    for split, remainders in (("train+meta", range(10)), ("test", [10]), ("valid", [11])):
        expected = [article for i, article in enumerate(in_order) if i % 12 in remainders]
        assert load_articles(CorpusOptions(limit=2), split) == expected[:2]
