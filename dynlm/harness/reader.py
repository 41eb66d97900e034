"""Documents, and continuations of a context, read by one dynamic model in one lane.

Legend: N tokens of a continuation, T tokens of a part of it, V vocabulary.

A document is an article: each segment is scored, then learned from. A continuation is scored, or generated, with the
memory that its context left, and is never learned from.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from dynlm.adapt.dynamic_model import DynamicModel, Memory
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.next_token import predict_after_each
from dynlm.data.stream import read_in_order
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.evaluation.generate import Start, continue_text, start_article
from dynlm.evaluation.sampling import Sampling, Stop


class Context(NamedTuple):
    """A context that was read, until the next text is: its tokens, the last of them, and the memory after it.

    ``last`` is the token that the model is given next; the start token where the context is empty.
    """

    ids: tuple[int, ...]
    last: int
    memory: Memory


class DocumentReader:
    """Reads texts with ``dynamic_model``, in segments of ``segment`` tokens; its reset policy decides what is kept.

    ``tokens`` counts the tokens that were learned from.
    """

    def __init__(self, dynamic_model: DynamicModel, tokenizer: Tokenizer, segment: int):
        self.dynamic_model, self.tokenizer, self.segment = dynamic_model, tokenizer, segment
        self.tokens = 0
        self._memory = dynamic_model.fresh_memory()
        self._texts: tuple[str, Context] | None = None

    @property
    def rejected(self) -> int:
        """How many updates the update filter rejected, and how often it restored the weights."""
        return 0 if self._memory.filter is None else int(self._memory.filter.counts_BC.sum())

    def read(self, texts: Sequence[str]) -> Iterator[float]:
        """Yield the sum of the log probabilities (nats) of each text's tokens, each scored before it is learned from.

        A text without tokens has the sum 0 and is not read.
        """
        split = TokenisedSplit.from_texts(texts, self.tokenizer)
        sizes = np.diff(split.starts)
        segments = self._segments(split, np.flatnonzero(sizes).tolist())
        for size in sizes.tolist():
            parts = itertools.islice(segments, -(-size // self.segment))
            # As a session sums them: float32 losses in double precision.
            nats = np.concatenate([np.zeros(0, np.float32), *parts])
            yield -float(nats.sum(dtype=np.float64))

    def read_context(self, text: str) -> Context:
        """Read ``text`` as an article and learn from it; the context that was read last is not read again."""
        if self._texts is not None and self._texts[0] == text:
            return self._texts[1]
        split = TokenisedSplit.from_texts([text], self.tokenizer)
        ids = tuple(split.ids_N.tolist())
        if ids:
            for _ in self._segments(split, [0]):
                pass
        else:
            self._memory = start_article(self.dynamic_model, self._memory)
        context = Context(ids, ids[-1] if ids else self.tokenizer.start, self._memory)
        self._texts = text, context
        return context

    def forget_context(self) -> None:
        """Read the next context even if it is that of the last call."""
        self._texts = None

    def score(self, context: Context, ids_N: Sequence[int]) -> tuple[float, bool]:
        """Return the log probability (nats) of tokens after ``context``, and whether each is the likeliest."""
        inputs_N, memory = [context.last, *ids_N[:-1]], context.memory
        total, greedy = 0.0, True
        for begin in range(0, len(ids_N), self.segment):
            own = slice(begin, begin + self.segment)
            logits_TV, memory = predict_after_each(self.dynamic_model, memory, inputs_N[own])
            targets_T1 = torch.tensor([*ids_N[own]], device=logits_TV.device)[:, None]
            total += float(logits_TV.log_softmax(-1).gather(1, targets_T1).double().sum())
            greedy = greedy and bool((logits_TV.argmax(-1, keepdim=True) == targets_T1).all())
        return total, greedy

    def continue_text(self, context: Context, sampling: Sampling, stop: Stop) -> str:
        """Return the text sampled after ``context``, up to what ends it."""
        start = Start(context.last, context.memory)
        return "".join(continue_text(self.dynamic_model, self.tokenizer, start, sampling, stop))

    def _segments(self, split: TokenisedSplit, articles: Sequence[int]) -> Iterator[np.ndarray]:
        """Read articles; yield the losses of each segment."""
        self._texts = None  # the memory of the last context is written over
        stream = read_in_order(split, self.segment, articles)
        for read in iter_segments(self.dynamic_model, stream, self._memory):
            self._memory = read.memory
            self.tokens += read.segment.tokens if self.dynamic_model.rule.learns else 0
            yield read.nats_T.float().cpu().numpy()
