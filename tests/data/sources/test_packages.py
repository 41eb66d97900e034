"""Documentation of installed packages: found and parsed without an import, near-duplicates left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dynlm.cli.main import main
from dynlm.data.articles import load_articles, source_name
from dynlm.data.options import CorpusOptions
from dynlm.data.sources.packages import distinct_articles
from dynlm.data.sources.source import Article
from dynlm.errors import UserError
from dynlm.evaluation.score_file import read_protocol
from tests.tiny import Run

ROOT = Path(__file__).resolve().parents[3]
Install = Callable[..., Path]


def prose(topic: str, words: int = 60) -> str:
    """Return words that no other topic has."""
    return " ".join(f"{topic}{number}" for number in range(words))


def module(topic: str, words: int = 60) -> str:
    """Return the source of a documented module that cannot be imported."""
    return f'"""{prose(topic, words)}"""\nraise SystemExit("must not run")\n'


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that writes files into a folder on ``sys.path``: names, without .py, and sources."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(files: dict[str, str]) -> Path:
        for name, source in files.items():
            path = tmp_path / (name if "." in name else f"{name}.py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return tmp_path

    return write


def titles(source: str, **options: float) -> list[str]:
    return [article.title for article in load_articles(CorpusOptions(source, **options), "train+meta")]  # type: ignore[arg-type]


def test_the_modules_of_a_package_are_articles(install: Install) -> None:
    names = ("__init__", "b/__init__", "b/inner", "a", "c", "tests/test_a", "b/test", "not-a-name")
    install({f"shelves0/{name}": module(f"w{number}x") for number, name in enumerate(names)})
    install({"shelves0/short": '"""Short."""', "shelves0/broken": f'"""{prose("broken")}"""\ndef ('})
    corpus = CorpusOptions("docs:shelves0", hold_out_every=5)
    articles = load_articles(corpus, "train+meta") + load_articles(corpus, "test") + load_articles(corpus, "valid")
    assert [article.title for article in articles] == [
        *("shelves0", "shelves0.a", "shelves0.b"),
        *("shelves0.b.inner", "shelves0.c"),
    ]
    assert articles[0].text == f"shelves0\n\n{prose('w0x')}\n"
    assert [article.where for article in articles[1:3]] == ["shelves0/a.py", "shelves0/b/__init__.py"]
    assert "shelves0" not in sys.modules


def test_a_module_of_one_file_and_a_compiled_name(install: Install) -> None:
    install({"single0": module("alone") + 'def twice(n: int = 2) -> int:\n    """Comes \\0 \\ud800 twice."""\n'})
    [article] = load_articles(CorpusOptions("docs:single0"), "train+meta")
    assert article == Article("single0", f"single0\n\n{prose('alone')}\n\ntwice(n: int=2) -> int\n\n"
                              "Comes \\0 \\ud800 twice.\n", "single0.py")  # fmt: skip


def test_source_code_is_read_as_it_is(install: Install) -> None:
    latin = f"# -*- coding: latin-1 -*-\nNAME = 'caf\u00e9'\n# {prose('note')}".encode("latin-1")
    install({"code0/__init__": module("top"), "code0/short": "x = 1\n", "code0/tests/test_a": module("test")})
    folder = install({"code0/broken": f'"""{prose("broken")}"""\ndef ('})  # as text it is what it is
    (folder / "code0" / "latin.py").write_bytes(latin.replace(b"\n", b"\r\n"))
    (folder / "code0" / "undecodable.py").write_bytes(f"# {prose('bytes')} \xff".encode("latin-1"))
    articles = load_articles(CorpusOptions("code:code0"), "train+meta")
    assert [(each.title, each.where, each.text) for each in articles] == [
        ("code0", "code0/__init__.py", module("top")),
        ("code0.broken", "code0/broken.py", f'"""{prose("broken")}"""\ndef (\n'),
        ("code0.latin", "code0/latin.py", latin.decode("latin-1") + "\n"),
    ]
    assert "code0" not in sys.modules
    assert source_name(CorpusOptions("code:code0")) == "source code of code0 (no version)"
    assert titles("docs:code0") == ["code0"]
    with pytest.raises(UserError, match="write code:PACKAGE"):
        load_articles(CorpusOptions("code:"), "train")


def test_packages_follow_each_other_and_the_name_has_their_versions(install: Install) -> None:
    install({"second0/__init__": module("second"), "first0/__init__": module("first"), "first0/more": module("more")})
    for name, distribution in (("second0", "second0"), ("first0", "the-first")):
        about = f"{distribution.replace('-', '_')}-1.5.dist-info"
        install({f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n"})
        install({f"{about}/top_level.txt": f"{name}\n"})
    assert titles("docs:second0,first0") == ["second0", "first0", "first0.more"]
    assert source_name(CorpusOptions("docs:second0,first0")) == "documentation of second0 1.5, first0 1.5"
    install({"loose0": module("loose")})
    assert source_name(CorpusOptions("docs:loose0")) == "documentation of loose0 (no version)"
    python = ".".join(map(str, sys.version_info[:3]))
    assert source_name(CorpusOptions("docs:json")).startswith(f"documentation of json of Python {python}")
    # A module of the interpreter, of which it holds a copy.
    assert source_name(CorpusOptions("docs:os")) == f"documentation of os of Python {python}"
    assert source_name(CorpusOptions("docs:loose0", max_overlap=0.25)).endswith("(overlap up to 0.25)")


def test_near_duplicates_are_left_out_of_all_packages(install: Install) -> None:
    half = f'"""{prose("a", 60)} {prose("new", 70)}"""'
    install({"copies0/a": module("a"), "copies0/b": module("a"), "copies0/__init__": module("top")})
    install({"copies0/c": half, "other0": module("a")})
    assert titles("docs:copies0,other0") == ["copies0", "copies0.a", "copies0.c"]
    assert titles("docs:copies0,other0", max_overlap=0.0) == ["copies0", "copies0.a"]
    everything = ["copies0", "copies0.a", "copies0.b", "copies0.c", "other0"]
    assert titles("docs:copies0,other0", max_overlap=1.0) == everything


@pytest.mark.parametrize("max_overlap", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_overlap_is_the_share_of_distinct_8_grams_in_articles_kept(max_overlap: float) -> None:
    def grams(text: str) -> set[str]:
        words = text.split()
        return {" ".join(words[start : start + 8]) for start in range(len(words) - 7)}

    pool = [prose(topic, 40) for topic in "abcdef"]
    texts = [" ".join(pool[number * step % 6] for number in range(1 + step % 3)) for step in range(1, 12)]
    kept: list[str] = []
    for text in texts:
        before = set().union(*map(grams, kept))
        if len(grams(text) & before) / len(grams(text)) <= max_overlap:
            kept.append(text)
    read = distinct_articles((Article("", text, "") for text in texts), max_overlap)
    assert [article.text for article in read] == kept


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("docs:", "corpus.source names ''"),
        ("docs:nowhere0.inner", "corpus.source names 'nowhere0.inner'"),
        ("docs:torch,", "corpus.source names ''"),
        ("docs:../up", "corpus.source names '../up'"),
        ("docs:nowhere0", "the package 'nowhere0' is not installed"),
        ("docs:sys", "the package 'sys' has no Python source"),
        ("docs:space0", "the package 'space0' is a namespace without source of its own"),
        ("docs:bare0", "the package 'bare0' cannot be found"),
        ("docs", "did you mean 'docs:'?"),
        ("stdlib:json", "did you mean 'stdlib'?"),
    ],
)
def test_what_is_no_documented_package_is_refused(
    source: str, what: str, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install({"space0/inner/module": module("inner")})
    monkeypatch.setitem(sys.modules, "bare0", type(sys)("bare0"))
    with pytest.raises(UserError) as refused:
        load_articles(CorpusOptions(source), "train")
    assert what in str(refused.value)


def test_an_unknown_package_is_one_line_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "trap0.py").write_text(module("trap"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    for source, message in (("docs:nowhere0", "is not installed"), ("docs:trap0", "")):
        words = ["corpus", "--corpus.source", source, "--corpus.hold_out_every", "3"]
        done = subprocess.run([sys.executable, "-m", "dynlm", *words], capture_output=True, text=True, env=environment)
        assert done.returncode == (2 if message else 0), done.stderr
        assert message in done.stderr and done.stderr.count("\n") == bool(message)


def test_rates_are_tuned_on_one_package_and_reported_on_another(
    tuned_copy: Run, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("tuned0", "told0"):
        install({f"{package}/m{number}": module(f"{package}{number}x") for number in range(9)})
        install({f"{package}/__init__": ""})
    corpora = {name: ["--corpus.path", "null", "--corpus.source", f"docs:{name}"] for name in ("tuned0", "told0")}
    for words in corpora.values():
        words += ["--corpus.hold_out_every", "3", "--memory.rule", "sgd"]
    run = str(tuned_copy.folder)
    small = ["--tune.articles", "1-2", "--tune.tokens", "100000", "--tune.rounds", "1", "--memory.lr", "null"]
    assert main(["tune", run, *corpora["tuned0"], *small]) == 0
    capsys.readouterr()
    overlap = {}
    for name, words in corpora.items():
        assert main(["score", run, *words, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        protocol = read_protocol(Path(answer["file"]))
        assert protocol["corpus"] == answer["corpus"] == f"documentation of {name} (no version)"
        [record] = protocol["tuned_on"]
        assert (record["corpus"], record["articles"]) == ("documentation of tuned0 (no version)", "1-2")
        overlap[name] = answer["variants"][0]["overlap"]
    assert overlap == {"told0": [], "tuned0": [{"what": "rates", "how": "tuned", "articles": 2, "of": 3}]}
