"""Token arrays: exact surfaces, a cache keyed by content, and memory use independent of the corpus size."""

import dataclasses

import numpy as np
import pytest

from dynlm.data.options import TokenizerOptions
from dynlm.data.sources.source import Article
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.pieces import PieceTokenizer
from dynlm.errors import UserError
from tests.tiny import listing

ARTICLES = [
    Article("Harbour", " = Harbour = \n The ships come in at dawn . \n", "a:1"),
    Article("Brücke", " = Brücke = \n Über die Brücke \u2581 gehen . \n", "a:3"),
    Article("Code", "def f(x):\n    return x\n", "b"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return PieceTokenizer.train(TokenizerOptions("bpe", 320, 0.99), [article.text for article in ARTICLES] * 3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNLM_CACHE", str(tmp_path))


def test_articles_are_encoded_once(tokenizer, monkeypatch):
    first = tokenise(ARTICLES, tokenizer)
    monkeypatch.setattr(PieceTokenizer, "encode", None)
    again = tokenise(ARTICLES, tokenizer)
    assert again.fingerprint == first.fingerprint
    assert again.ids_N.tolist() == first.ids_N.tolist()
    with pytest.raises(TypeError):
        tokenise(ARTICLES[:2], tokenizer)


def change(index, **fields):
    return [*ARTICLES[:index], dataclasses.replace(ARTICLES[index], **fields), *ARTICLES[index + 1 :]]


@pytest.mark.parametrize(
    "changed",
    [
        change(1, text=ARTICLES[1].text.replace("gehen", "gahen")),
        change(1, title="Brucke"),
        [Article("", ARTICLES[0].text + "a", ""), *ARTICLES[1:]],
        [ARTICLES[1], ARTICLES[0], ARTICLES[2]],
        ARTICLES[:2],
    ],
)
def test_a_changed_corpus_is_encoded_anew(tokenizer, changed):
    first = tokenise(ARTICLES, tokenizer)
    split = tokenise(changed, tokenizer)
    assert list(split.titles) == [article.title for article in changed]
    assert [tokenizer.decode(split.article(a)) for a in range(split.articles)] == [a.text for a in changed]
    assert tokenise(ARTICLES, tokenizer).fingerprint == first.fingerprint


def test_a_moved_corpus_is_found_in_the_cache(tokenizer, monkeypatch):
    tokenise(ARTICLES, tokenizer)
    monkeypatch.setattr(PieceTokenizer, "encode", None)
    tokenise((dataclasses.replace(article, where="elsewhere") for article in ARTICLES), tokenizer)


def test_article_boundaries_are_part_of_the_fingerprint(tokenizer):
    one = tokenise([Article("", "abc", ""), Article("", "cd", "")], tokenizer)
    other = tokenise([Article("", "ab", ""), Article("", "ccd", "")], tokenizer)
    assert one.fingerprint != other.fingerprint
    assert (one.text_starts.tolist(), other.text_starts.tolist()) == ([0, 3, 5], [0, 2, 5])


@pytest.mark.parametrize("chunk", [1, 150, 1 << 20])
def test_files_do_not_depend_on_processes_or_chunks(tokenizer, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("dynlm.data.spool.CHUNK_BYTES", chunk)
    articles = [Article(f"{n}", f"{n} {article.text}", "") for n in range(3) for article in ARTICLES]
    written = []
    for num_proc in (1, 2, 3):
        monkeypatch.setenv("DYNLM_CACHE", str(tmp_path / f"{num_proc}"))
        split = tokenise(iter(articles), tokenizer, num_proc)
        assert [tokenizer.decode(split.article(a)) for a in range(split.articles)] == [a.text for a in articles]
        written.append(listing(tmp_path / f"{num_proc}"))
    monkeypatch.setattr("dynlm.data.spool.CHUNK_BYTES", 1 << 20)
    monkeypatch.setenv("DYNLM_CACHE", str(tmp_path / "one"))
    tokenise(articles, tokenizer)
    assert written == [listing(tmp_path / "one")] * 3


def test_a_failing_source_leaves_no_files(tokenizer, tmp_path):
    def broken():
        yield from ARTICLES[:2]
        raise UserError("broken", "c:1")

    with pytest.raises(UserError, match="c:1"):
        tokenise(broken(), tokenizer)
    assert not list((tmp_path / "tokens").iterdir())
    assert tokenise(ARTICLES, tokenizer).articles == 3


def test_interrupted_encoding_leaves_no_files(tokenizer, tmp_path, monkeypatch):
    def interrupted(self, text):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PieceTokenizer, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tokenise(ARTICLES, tokenizer)
    assert not list((tmp_path / "tokens").iterdir())
    assert tokenise(ARTICLES, tokenizer).articles == 3


@pytest.mark.parametrize("num_proc", [1, 2])
def test_short_articles_are_left_out_with_a_warning(tokenizer, monkeypatch, capsys, num_proc):
    monkeypatch.setattr("dynlm.data.spool.CHUNK_BYTES", 1)
    dots = [Article(f"Dot {n}", "\n", f"c:{n}") for n in range(3)]
    whole = tokenise(ARTICLES, tokenizer)
    assert capsys.readouterr().err == ""
    for _ in range(2):  # Encoded, then loaded from the cache.
        split = tokenise([dots[0], *ARTICLES[:1], dots[1], *ARTICLES[1:], dots[2]], tokenizer, num_proc)
        err = capsys.readouterr().err
        assert "left out 3 article(s)" in err and err.endswith("the first at c:0\n") and err.count("\n") == 1
        assert list(split.titles) == list(whole.titles)
        assert split.fingerprint == whole.fingerprint
        for name in ("ids_N", "lengths_N", "words_N", "text", "starts", "text_starts", "headings"):
            assert np.array_equal(getattr(split, name), getattr(whole, name)), name


def test_the_first_articles_of_a_chunk_may_be_short(tokenizer):
    dot = Article("Dot", "\n", "c:0")
    split, whole = tokenise([dot, *ARTICLES, dot], tokenizer), tokenise(ARTICLES, tokenizer)
    assert np.array_equal(split.headings, whole.headings) and split.fingerprint == whole.fingerprint


def test_a_corpus_of_short_articles_is_rejected_and_not_cached(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"^c:6: each of its 2 article"):
        tokenise([Article("Dot", "\n", "c:6"), Article("Empty", "", "c:7")], tokenizer)
    with pytest.raises(UserError, match="no articles"):
        tokenise([], tokenizer)
    assert not list(tmp_path.rglob("*.npy"))


def end_of_line(split, article):
    """Return the token of an article that has its first end of line."""
    return next(number for number, surface in enumerate(split.surfaces(article)) if b"\n" in surface)


def test_a_split_from_texts_equals_the_tokenised_articles(tokenizer):
    split = tokenise(ARTICLES, tokenizer)
    assert TokenisedSplit.from_texts([ARTICLES[1].text], tokenizer).ids_N.tolist() == split.article(1).tolist()
    assert len(TokenisedSplit.from_texts([""], tokenizer).ids_N) == 0
