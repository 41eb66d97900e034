"""Corpus files with arbitrary or damaged bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from dynlm.data.articles import load_articles
from dynlm.data.options import CorpusOptions, TokenizerOptions
from dynlm.data.sources.lines import text_lines
from dynlm.data.sources.source import Article
from dynlm.data.sources.wikitext import wikitext_articles
from dynlm.data.token_store import tokenise
from dynlm.data.tokenizers.words import WordTokenizer
from tests.data.sources.dumps import dump, page
from tests.fuzz.cases import damaged, damaged_json, fuzz, tried
from tests.tiny import article

TEXT = " \n = A title = \n \n Some text , ü and 漢字 . \n = = Section = = \n more \n \n = Other = \n \n end \n".encode()
ENDINGS = (".txt", ".md", ".tokens", ".txt.gz", ".txt.bz2", ".txt.xz", ".txt.zip", ".txt.zst")


def packed(ending: str) -> bytes:
    kind = ending.rpartition(".")[2]
    if kind == "zip":
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inside.txt", TEXT * 3)
        return made.getvalue()
    if kind == "zst":
        return bytes(pa.compress(TEXT * 3, codec="zstd", asbytes=True))
    packers: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    return packers.get(kind, bytes)(TEXT * 3)


WHOLE = {ending: packed(ending) for ending in ENDINGS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpora")


def read(path: Path, content: bytes, **options: object) -> None:
    path.write_bytes(content)
    config = CorpusOptions(path=str(path), **options)  # type: ignore[arg-type]
    for one in tried(lambda: load_articles(config, "train+meta")) or []:
        assert one.text.encode() and one.where


@fuzz(
    "text files",
    case=st.sampled_from(ENDINGS).flatmap(lambda end: st.tuples(st.just(end), damaged(WHOLE[end]) | st.binary())),
    form=st.sampled_from(["auto", "text", "wikitext"]),
)
def test_text_files(folder: Path, case: tuple[str, bytes], form: str) -> None:
    read(folder / f"any{case[0]}", case[1], format=form)
    # What is not damaged comes back whole.
    lines = tried(lambda: list(text_lines(folder / f"any{case[0]}")))
    if case[0].count(".") == 1 and lines is not None:
        assert "".join(line for _, line in lines) == case[1].decode().removeprefix("\ufeff")


RECORD = {"title": "A", "text": "some text\n", "other": [1, {"a": None}]}


@fuzz(
    "json lines",
    lines=st.lists(damaged_json(RECORD) | st.just(json.dumps(RECORD).encode()), max_size=3),
    ends=st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
)
def test_json_lines(folder: Path, lines: list[bytes], ends: bytes) -> None:
    read(folder / "any.jsonl", ends.join(lines))


def parquet_file(compression: str) -> bytes:
    made = io.BytesIO()
    table = pa.table({"text": ["one text", "another", "the third"] * 5, "title": ["A", None, "C"] * 5})
    pq.write_table(table, made, compression=compression, row_group_size=7)
    return made.getvalue()


@fuzz(
    "parquet corpora",
    content=st.sampled_from([parquet_file(kind) for kind in ("none", "zstd", "snappy", "gzip")]).flatmap(damaged),
)
def test_parquet_corpora(folder: Path, content: bytes) -> None:
    read(folder / "any.parquet", content)


DUMP = dump(
    page("A", "'''bold''' {{t|x}} [[a|b]] <ref>c</ref>\n== H ==\n{|\n| d\n|}\n* e &amp; f"),
    page("B", "#REDIRECT [[A]]", redirect="A"),
    page("T:A", "text", ns=1),
)


@fuzz("dumps", content=damaged(DUMP), ending=st.sampled_from([".xml", ".xml.bz2"]))
def test_dumps(folder: Path, content: bytes, ending: str) -> None:
    pytest.importorskip("mwparserfromhell")
    read(folder / f"any{ending}", bz2.compress(content) if ending.endswith(".bz2") else content)


LINE = st.sampled_from(
    ["\n", " \n", " = T = \n", " = = S = = \n", " = T \n", " = = \n", "=\n", " = x = y = \n", "\u2028\n", "a\n"]
)


@fuzz("wikitext", lines=st.lists(LINE | st.text(max_size=12).map(lambda line: line.replace("\n", "") + "\n")))
def test_wikitext_articles_hold_every_line(lines: list[str]) -> None:
    articles = list(wikitext_articles(("name", line) for line in lines))
    joined = "".join(article.text for article in articles)
    assert joined == ("".join(lines) if any(map(str.strip, lines)) else "")


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Article], WordTokenizer, Path]]:
    """Two articles, their tokenizer, and the folder of their cached arrays."""
    cache = tmp_path_factory.mktemp("cache")
    texts = [article(np.random.default_rng(seed), 3) for seed in range(2)]
    tokenizer = WordTokenizer.train(TokenizerOptions(kind="word", vocab_size=0), texts)
    articles = [Article(str(index), text, "here") for index, text in enumerate(texts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNLM_CACHE", str(cache))
        tokenise(articles, tokenizer)
        (folder,) = (cache / "tokens").iterdir()
        yield articles, tokenizer, folder


@fuzz("token arrays", data=st.data())
def test_cached_token_arrays(data: st.DataObject, cached: tuple[list[Article], WordTokenizer, Path]) -> None:
    articles, tokenizer, folder = cached
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    whole = path.read_bytes()
    content = data.draw(damaged(whole))
    path.unlink()  # Arrays that are mapped stay unchanged.
    path.write_bytes(content)
    try:
        found = tried(lambda: tokenise(articles, tokenizer))
        if found is not None:
            for index in range(found.articles):
                assert len(found.surfaces(index)) == len(found.article(index))
            titles = tried(lambda: list(found.titles))
            assert titles is None or len(titles) == found.articles
            assert len(found.ids_N) == len(found.words_N) == int(found.starts[-1])
            assert found.ids_N.min() >= 0 and found.ids_N.max() < tokenizer.size
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
