"""Word tokenizers cover every byte of a text, with the vocabulary of the literature."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenised_split import count_word_starts
from dynlm.data.tokenizers.words import WordTokenizer
from tests.data.tokenizers.texts import ANY_TEXT, SPECIAL, TEXT


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(ANY_TEXT, SPECIAL))
def test_words_cover_every_byte(text):
    tokenizer = WordTokenizer.train(TokenizerOptions("word", 0), TEXT)
    encoding = tokenizer.encode(text)
    assert encoding.lengths.sum() == len(text.encode())
    assert count_word_starts(text.encode(), encoding.lengths).sum() == len(text.split()) + text.count("\n")


def test_words_of_a_small_text():
    tokenizer = WordTokenizer.train(TokenizerOptions("word", 0), [" a b a \n \n c <unk> \n"])
    assert sorted(tokenizer.types) == ["<eos>", "<unk>", "a", "b", "c"]
    encoding = tokenizer.encode(" a z \n \n")
    assert [tokenizer.types[index] for index in encoding.ids] == ["a", "<unk>", "<eos>", "<eos>"]
    assert encoding.lengths.tolist() == [2, 2, 2, 2]


def test_the_word_vocabulary_has_the_most_frequent_words():
    tokenizer = WordTokenizer.train(TokenizerOptions("word", 4), ["a b b c c c"])
    assert set(tokenizer.types) == {"<unk>", "<eos>", "b", "c"}
