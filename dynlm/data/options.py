"""Options of the corpus and of the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dynlm.runtime.validation import Section, bounded, within

Order = Literal["in order", "shuffled"]
"""Order in which the articles of a split are read."""
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass
class CorpusOptions(Section):
    """Where the articles come from and how they are split."""

    SECTION = "corpus"
    COMMON = "source path"

    source: str = "stdlib"
    """stdlib (embedded), docs:PACKAGE[,PACKAGE...] (docstrings of installed packages), code:PACKAGE[,...]
    (their source code), wikitext-2[-raw], wikitext-103[-raw], or a hub data set as owner/name."""
    path: str | None = None
    """A local file, folder or quoted pattern, read in place of source."""
    format: Literal["auto", "wikitext", "text", "jsonl", "parquet", "mediawiki", "mixed"] = "auto"
    """Format of local files; text: one file an article; mediawiki: XML dumps, such as Wikipedia's; mixed: each file of
    a folder by its own format, without those that cannot be read."""
    subset: str | None = None
    """Configuration of a hub data set, such as 20231101.en."""
    text_field: str = "text"
    """Field with the text, in JSON lines, Parquet and hub data sets."""
    title_field: str = "title"
    """Field with the title, if there is one."""
    limit: int | None = bounded(None, 1)
    """Read at most this many articles of each split."""
    cut_words: int = bounded(0, 0, omit_default=True)
    """Longer texts are cut into articles of at most this many words, at headings or paragraphs; 0: none is cut."""
    hold_out_every: int = bounded(12, 3)
    """Of a source without valid and test splits, every n-th article goes to each."""
    meta_every: int = bounded(20, 2)
    """Every n-th training article is kept from the language model, for meta-training."""
    max_overlap: float = bounded(0.5, 0, 1, omit_default=True)
    """Of docs:PACKAGE and code:PACKAGE, a module is left out if more than this share of its 8-grams of words is in
    modules before it."""
    num_proc: int = bounded(1, 1, 1024, affects_result=False)
    """Processes that tokenise; the tokens are the same for any number."""


@dataclass
class TokenizerOptions(Section):
    """How text becomes tokens."""

    SECTION = "tokenizer"
    COMMON = "kind vocab_size"

    kind: Literal["bpe", "unigram", "word", "pretrained"] = "bpe"
    """bpe or unigram: SentencePiece, lossless; word: split at white space, for comparison with the literature;
    pretrained: that of an adopted model."""
    vocab_size: int = bounded(4000, 0, 1_000_000)
    """Number of pieces; a word vocabulary keeps at most this many types, 0 keeps all."""
    character_coverage: float = bounded(0.9995, 0.9, 1.0)
    """Share of the training characters that get a piece of their own; the others are encoded as bytes."""
    training_characters: int = bounded(50_000_000, 1)
    """Pieces are learned from the first articles with so many characters; word vocabularies from all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind in ("bpe", "unigram"):
            within("tokenizer.vocab_size", self.vocab_size, 300, 1_000_000)
