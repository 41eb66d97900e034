"""The texts that meta-training learns on: the run's articles kept aside, and further texts of other kinds.

Articles of several texts are read alternately, so that each kind has an equal share of the tokens whatever its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynlm.adapt.options import MemoryOptions
from dynlm.data.articles import corpus_named, source_name, splits_with_articles
from dynlm.data.joined import Piece, alternate, deal, join_pieces
from dynlm.data.options import CorpusOptions
from dynlm.data.stream import Stream
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.run.run import Run
from dynlm.runtime.distributed import Processes
from dynlm.runtime.hashing import fingerprint
from dynlm.train.options import FinetuneOptions, MetatrainOptions, TuneOptions
from dynlm.train.outer_loop import check_lanes, shared_stream
from dynlm.train.tune import tuning_stream

_LEARNED_ON = ("train", "meta")
"""Splits of a further text; the run's language model was not trained on it. valid picks, test is left for figures."""


@dataclass(frozen=True)
class MetaText:
    """Articles of one kind of text: ``splits`` of the corpus of ``run``, which is named ``name``."""

    name: str
    run: Run
    splits: tuple[str, ...]

    def pieces(self) -> list[Piece]:
        """Return the articles of all splits."""
        loaded = [self.run.split(name) for name in self.splits]
        return [Piece(split, article) for split in loaded for article in range(split.articles)]

    @property
    def tokens(self) -> int:
        """The tokens of all articles."""
        return sum(len(self.run.split(name).ids_N) for name in self.splits)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of all articles."""
        prints = [self.run.split(name).fingerprint for name in self.splits]
        return prints[0] if len(prints) == 1 else fingerprint(*prints)

    def records(self, what: str) -> list[dict[str, Any]]:
        """Return the records (``Run.record``) that ``what`` was learned on each split."""
        return [self.run.record(what, "learned", name, range(self.run.split(name).articles)) for name in self.splits]

    def described(self, tokens: float) -> dict[str, Any]:
        """Return what a card says of it, where ``tokens`` of it are read."""
        return {
            "text": self.name,
            "corpus": source_name(self.run.section(CorpusOptions)),
            "splits": list(self.splits),
            "articles": len(self.pieces()),
            "tokens": self.tokens,
            "passes": tokens / self.tokens,
        }


def meta_texts(run: Run) -> list[MetaText]:
    """Return the run's articles kept for meta-training, and the texts that ``metatrain.texts`` names.

    Of those all articles but the valid and test splits are taken. Raises UserError for one that cannot be read, is
    named twice, or is the run's own corpus.
    """
    own = run.section(CorpusOptions)
    texts, taken = [MetaText("meta", run, ("meta",))], {source_name(own): "is the run's own corpus"}
    for text in run.section(MetatrainOptions).texts or []:
        corpus = corpus_named(text, own, "metatrain.texts")
        try:
            name = source_name(corpus)
            splits = tuple(split for split in splits_with_articles(corpus) if split in _LEARNED_ON)
        except UserError as error:
            raise UserError(f"metatrain.texts names {text!r}: {error}") from error
        if name in taken or not splits:
            why = taken.get(name, "has no training articles")
            raise UserError(f"metatrain.texts names {text!r}, which {why}", do="take it out")
        taken[name] = "is named twice"
        texts.append(MetaText(text, run.with_sections(corpus), splits))
    return texts


def picking_streams(run: Run, texts: Sequence[MetaText], tokens: int) -> list[tuple[Run, str, Stream]]:
    """Return (run, split, stream) of the articles that choose between what was learned and its start.

    They are the tuning articles, and of each further text its valid articles, where it has some; up to ``tokens``
    tokens of each.
    """
    tuning = run.section(TuneOptions)
    picking: list[tuple[Run, str, Stream]] = [(run, tuning.split, tuning_stream(run, tokens))]
    for text in texts[1:]:
        if "valid" in splits_with_articles(text.run.section(CorpusOptions)):
            own = text.run.with_sections(tuning.replace(split="valid", articles="all"))
            picking.append((own, "valid", tuning_stream(own, tokens)))
    return picking


def outer_stream(
    run: Run, texts: Sequence[MetaText], options: MetatrainOptions | FinetuneOptions, processes: Processes
) -> Stream:
    """Return the stream of an outer loop over ``texts``, again and again, in ``options.lanes`` lanes.

    The articles of one text are shuffled in each pass; the texts are read by turns (``data.joined``). Without
    ``memory.article_boundaries`` each lane reads its share of them as one text. Raises UserError where the lanes cannot
    be shared evenly by the processes.
    """
    memory, seed, lanes = run.section(MemoryOptions), run.options.seed, options.lanes
    seed = options.seed_or(seed) if isinstance(options, MetatrainOptions) else seed
    if len(texts) == 1 and memory.article_boundaries:
        (name,) = texts[0].splits
        return shared_stream(texts[0].run.split(name), options, memory.segment, seed, processes)
    check_lanes(options, processes)
    kinds = [text.pieces() for text in texts]
    pieces = alternate(kinds, seed, turn=options.turn if isinstance(options, MetatrainOptions) else 0)
    # The last window may begin just before the last token.
    tokens = options.tokens + math.ceil(options.window / lanes) * lanes * memory.segment
    if memory.article_boundaries:
        # At the end each lane may be at the beginning of an article.
        longest = max(piece.tokens for kind in kinds for piece in kind)
        split, order = _each_once(deal(pieces, 1, tokens + lanes * longest)[0])
    else:
        split, order = join_pieces(deal(pieces, lanes, math.ceil(tokens / lanes))), list(range(lanes))
    rank, world = processes.rank, processes.world
    return Stream(split, lanes, memory.segment, order, repeat=True, rank=rank, world=world)


def single_pass(run: Run, texts: Sequence[MetaText], seed: int) -> Stream:
    """Return the articles of ``texts``, each at most once, in the lanes of the memory, shuffled by ``seed``.

    Those of several texts are read alternately, until one of the texts ends; without ``memory.article_boundaries`` they
    are one text.
    """
    memory = run.section(MemoryOptions)
    if len(texts) == 1 and memory.article_boundaries:
        split = texts[0].run.split(*texts[0].splits)
        return Stream(split, memory.lanes, memory.segment, range(split.articles), seed=seed)
    pieces = [*alternate([text.pieces() for text in texts], seed, repeat=False)]
    split = join_pieces([[piece] for piece in pieces] if memory.article_boundaries else [pieces])
    return Stream(split, memory.lanes, memory.segment, range(split.articles))


def _each_once(pieces: Sequence[Piece]) -> tuple[TokenisedSplit, list[int]]:
    """Return a split with each of ``pieces`` as an article, once, and the order that they stand in."""
    indices: dict[tuple[int, int], int] = {}
    distinct: list[list[Piece]] = []
    order = []
    for piece in pieces:
        index = indices.setdefault((id(piece.split), piece.article), len(distinct))
        if index == len(distinct):
            distinct.append([piece])
        order.append(index)
    return join_pieces(distinct), order
