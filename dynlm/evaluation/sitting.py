"""Read texts of a user's own in one sitting, and keep the memory in a file."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynlm.adapt.memory_file import About, changing, load_about
from dynlm.adapt.reading_record import WordSum, most_changed
from dynlm.data.sources.source import Article
from dynlm.errors import UserError
from dynlm.evaluation.protocol import variant_name
from dynlm.evaluation.session import Session
from dynlm.evaluation.text_result import TextResult
from dynlm.evaluation.word_gains import record_of
from dynlm.run.run import Run
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.tensors import params_fingerprint


@dataclass(frozen=True)
class ReadSummary:
    """The outcome of a sitting: the losses of each text, and the memory after it."""

    titles: tuple[str, ...]
    results: tuple[TextResult, ...]
    """Of each text; none where the texts are those of the sitting before, which were not read again."""
    static: tuple[str, str]
    """Fingerprint of the static parameters before and after."""
    distance: float
    """|theta_t - theta_0| / |theta_0|."""
    protocol: dict[str, Any]
    """The variant that read, its reset policy and its segment."""
    memory: dict[str, Any]
    """Tokens and articles that the memory has read in all, and the fingerprint of its file, where there is one."""
    words: dict[str, WordSum] = dataclasses.field(default_factory=dict)
    """Of the words of these texts, where the static model was compared with."""
    repeated: bool = False
    read_twice: bool = False
    """Whether the static model read the texts apart, which took its time."""

    @property
    def tokens(self) -> int:
        """Tokens that were read."""
        return sum(map(len, self.results))

    @property
    def nats_per_token(self) -> float | None:
        """Mean loss; None where no token was read."""
        return self._mean(result.total for result in self.results)

    @property
    def static_nats_per_token(self) -> float | None:
        """Mean loss of the same tokens by the static parameters; None where these did not read them."""
        if not self.compared:
            return None
        return self._mean(result.static_total for result in self.results)

    @property
    def compared(self) -> bool:
        """Whether the static model read the same tokens."""
        return self.tokens > 0 and all(result.static is not None for result in self.results)

    @property
    def worse_by(self) -> float:
        """Nats per token above the static model; below 0 the memory helped, 0 where that is not known."""
        own, static = self.nats_per_token, self.static_nats_per_token
        return 0.0 if own is None or static is None else own - static

    @property
    def rejected(self) -> int:
        """Updates that the update filter rejected, and weights that it restored."""
        return sum(result.rejected for result in self.results)

    def to_dict(self, count: int = 20) -> dict[str, Any]:
        """Return everything, ready for JSON, with the ``count`` words that gained most and those that lost most."""
        gained, lost = most_changed(self.words, count)
        return {
            "tokens": self.tokens,
            "nats_per_token": self.nats_per_token,
            "level_1_nats_per_token": self.static_nats_per_token,
            "repeated": self.repeated,
            "distance": self.distance,
            "guarded": self.rejected,
            "static_parameters": {"before": self.static[0], "after": self.static[1]},
            "memory": self.memory,
            "word_gains": {
                name: [{"word": word, **self.words[word]._asdict()} for word in words]
                for name, words in (("gained", gained), ("lost", lost))
            },
            "texts": [
                {"title": title, **{name: np.asarray(column).tolist() for name, column in result.columns().items()}}
                for title, result in zip(self.titles, self.results, strict=False)
            ],
        }

    def _mean(self, sums: Any) -> float | None:
        return sum(sums) / self.tokens if self.tokens else None


def read_texts(
    run: Run,
    texts: Sequence[Article],
    path: Path | None,
    finish: bool = True,
    again: bool = False,
    compare: bool = True,
) -> ReadSummary:
    """Read ``texts`` with the memory in the file ``path`` (a fresh one), and save it there once at the end.

    ``path`` None keeps nothing. ``finish=False`` leaves the last text unfinished. Texts that are those of the last
    sitting, as after a command that was interrupted and repeated, are read only with ``again``. ``compare=False`` saves
    the time in which the static model reads the texts too; beside a mixture, which needs it, there is nothing to save.
    Raises UserError for a memory that does not fit, is locked or diverged, and for an empty text; the file then stays
    as it was.
    """
    with contextlib.ExitStack() as stack:
        path = None if path is None else stack.enter_context(changing(path))
        session = Session.open(run, path if path is not None and path.exists() else None)
        before = params_fingerprint(run.trained.params)
        contents = (article.text.encode("utf-8", "replace") for article in texts)
        last = fingerprint(*contents, "" if finish else "unfinished")
        titles, options = tuple(article.title for article in texts), session.options
        variant = variant_name(session.dynamic_model)
        protocol = {"variant": variant, "reset": options.reset, "segment": options.segment}
        if session.saved.last == last and not again and path is not None:
            memory = _describe(session, load_about(path)[0])
            return ReadSummary(titles, (), (before, before), session.distance, protocol, memory, repeated=True)
        beside = session.level_1() if compare else None
        results: list[TextResult] = []
        for article in texts:
            ends = finish or len(results) + 1 < len(texts)
            try:
                result = session.read(article.text, ends)
            except UserError as error:
                raise UserError(str(error), article.title) from error
            if beside is not None:
                result = dataclasses.replace(result, static=beside.read(article.text, ends).nats)
            session.record(result, article.title)
            results.append(result)
        if not math.isfinite(sum(result.total for result in results)):
            raise UserError("this memory is not saved: the loss is not finite", path, "lower the rule's rate")
        after = params_fingerprint(run.trained.params)
        assert after == before, "reading changed the static parameters"
        session.saved = dataclasses.replace(session.saved, last=last)
        memory = _describe(session, None if path is None else session.save(path))
        words = dict(record_of(results).words)
        read_twice = beside is not None
        summary = (titles, tuple(results), (before, after), session.distance, protocol, memory, words)
        return ReadSummary(*summary, read_twice=read_twice)


def _describe(session: Session, about: About | None) -> dict[str, Any]:
    """Return how much the memory of ``session`` has read, and the fingerprint of its file, where it has one."""
    saved = session.saved
    return {"tokens": saved.tokens, "articles": saved.articles, "content": about.content if about else None}
