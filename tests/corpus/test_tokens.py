"""Token arrays: exact surfaces, and a cache that is keyed by content."""

import pytest

from dynlm.config import TokenizerConfig
from dynlm.corpus.article import Article
from dynlm.corpus.tokenizer import PieceTokenizer
from dynlm.corpus.tokens import excerpt, split_of_text, tokenise
from dynlm.errors import UserError

ARTICLES = [
    Article("Harbour", " = Harbour = \n The ships come in at dawn . \n", "a:1"),
    Article("Brücke", " = Brücke = \n Über die Brücke \u2581 gehen . \n", "a:3"),
    Article("Code", "def f(x):\n    return x\n", "b"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return PieceTokenizer.train(TokenizerConfig("bpe", 320, 0.99), [article.text for article in ARTICLES] * 3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNLM_CACHE", str(tmp_path))


def test_surfaces_join_to_the_text(tokenizer):
    split = tokenise(ARTICLES, tokenizer)
    for index, article in enumerate(ARTICLES):
        assert b"".join(split.surfaces(index)).decode() == article.text
        assert tokenizer.decode(split.article(index)) == article.text
    assert split.words_N.sum() == sum(len(a.text.split()) + a.text.count("\n") for a in ARTICLES)


def test_inputs_stand_one_behind(tokenizer):
    split = tokenise(ARTICLES, tokenizer)
    assert split.inputs(1)[0] == tokenizer.start
    assert split.inputs(1)[1:].tolist() == split.article(1)[:-1].tolist()


def test_encoded_once(tokenizer, monkeypatch):
    first = tokenise(ARTICLES, tokenizer)
    monkeypatch.setattr(PieceTokenizer, "encode", None)
    again = tokenise(ARTICLES, tokenizer)
    assert again.fingerprint == first.fingerprint
    assert again.ids_N.tolist() == first.ids_N.tolist()
    with pytest.raises(TypeError):
        tokenise(ARTICLES[:2], tokenizer)


def test_articles_that_teach_nothing_are_named(tokenizer):
    with pytest.raises(UserError, match=r"^c:7: article 'Dot' has 1 token"):
        tokenise([*ARTICLES, Article("Dot", "\n", "c:7")], tokenizer)
    with pytest.raises(UserError, match="no articles"):
        tokenise([], tokenizer)


def test_nothing_is_cached_of_a_refused_corpus(tokenizer, tmp_path):
    with pytest.raises(UserError):
        tokenise([*ARTICLES, Article("Empty", "", "c:7")], tokenizer)
    assert not list(tmp_path.rglob("*.npy"))


def test_an_excerpt_is_each_articles_opening(tokenizer):
    split = tokenise(ARTICLES, tokenizer)
    part = excerpt(split, articles=2, tokens=5)
    for index in range(2):
        assert part.article(index).tolist() == split.article(index)[:5].tolist()
        assert part.surfaces(index) == split.surfaces(index)[:5]


def test_a_text_in_memory_is_the_text_as_an_article(tokenizer):
    split = tokenise(ARTICLES, tokenizer)
    assert split_of_text(ARTICLES[1].text, tokenizer).ids_N.tolist() == split.article(1).tolist()
    assert len(split_of_text("", tokenizer).ids_N) == 0
