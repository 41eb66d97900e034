"""One pass of a model over articles: the loss of every token, each segment scored before it is learned from.

Legend: B lanes, T tokens of a segment, N tokens read (masked ones too), C columns of the score file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.reader import Reader
from dynlm.adapt.state import Memory, distance
from dynlm.adapt.update_filter import counts_of, first_of, ratios_of
from dynlm.data.stream import Segment, read_side_by_side
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation.protocol import variant_name
from dynlm.evaluation.score_file import Scores
from dynlm.evaluation.scoring_checkpoint import ScoringCheckpointer, ScoringState
from dynlm.runtime.distributed import Processes
from dynlm.runtime.tree import concatenate_lanes, num_bytes, to_device


@dataclass(frozen=True)
class Evaluation:
    """What is read, by what, and how: ``articles`` of ``text`` (in this order) in segments of ``segment`` tokens.

    With ``track`` the distance of the dynamic weights from theta_0 and their resets are recorded beside each loss.
    """

    reader: Reader
    text: TokenisedSplit
    articles: Sequence[int]
    segment: int
    lanes: int = 1
    track: bool = False
    processes: Processes | None = None

    @property
    def world(self) -> int:
        """The number of processes."""
        return 1 if self.processes is None else self.processes.world

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value."""
        return [value] if self.processes is None else self.processes.gather_object(value)


def evaluate(
    asked: Evaluation,
    start: Memory | None = None,
    checkpointer: ScoringCheckpointer | None = None,
    quiet: bool = True,
) -> Scores:
    """Read the articles once and return the loss of each token, with rows in the split's own order.

    The reading starts with the memory ``start`` (a fresh one), which is overwritten, or resumes at the newest
    checkpoint of ``checkpointer``. The protocol of the result holds only what the pass itself knows.
    """
    reader, articles, track = asked.reader, sorted(asked.articles), asked.track and asked.reader.rule.learns
    lanes = min(asked.lanes, -(-len(articles) // asked.world))
    rank = 0 if asked.processes is None else asked.processes.rank
    stream = read_side_by_side(asked.text, asked.segment, asked.articles, lanes, rank, asked.world)
    columns = text_columns(asked.text, articles)
    lengths = np.diff(asked.text.starts)[articles]
    first_rows = np.zeros(asked.text.articles, dtype=np.int64)
    first_rows[articles] = np.cumsum(lengths) - lengths
    # Losses and distances stay on the device until the end.
    rows: list[np.ndarray] = []
    values: list[Tensor] = []
    state = None if checkpointer is None else checkpointer.load(reader, stream.local_lanes)
    if state is not None:
        memory, position, distance_B = state.memory, state.position, state.distance_B
        rows, values = [state.rows_N], [state.values_CN]
    else:
        memory, position = reader.fresh_memory(stream.local_lanes) if start is None else start, stream.begin()
        distance_B = torch.zeros(stream.local_lanes, device=next(iter(reader.static.values())).device)
        if track and start is not None:
            distance_B = distance(memory, reader.static)
    bar = tqdm(total=len(columns["token"]), desc="score", unit="tok", unit_scale=True, disable=quiet)
    bar.update(position.tokens)
    with checkpointer or nullcontext(), bar:
        for read in iter_segments(reader, stream, memory, position):
            memory = read.memory
            rows.append(rows_of(read.segment, first_rows).ravel())
            recorded = [read.nats_BT]
            if track:
                if reader.reset == "article":
                    starts_B = torch.from_numpy(read.segment.starts_B).to(distance_B.device)
                    distance_B = distance_B.masked_fill(starts_B, 0)
                recorded.append(distance_B[:, None].expand_as(read.nats_BT))
                distance_B = distance(memory, reader.static)
            values.append(torch.stack(recorded).flatten(1).float())
            bar.update(read.place.tokens - bar.n)
            if checkpointer is not None and checkpointer.is_due:
                rows, values = [np.concatenate(rows)], [torch.cat(values, 1)]
                checkpointer.save(ScoringState(memory, read.place, rows[0], values[0], distance_B), reader)
    table = np.full((1 + track, len(columns["token"])), np.nan, dtype=np.float32)
    for part in asked.gather((np.concatenate(rows), torch.cat(values, 1).cpu().numpy()) if rows else None):
        if part is not None:
            rows_N, values_CN = part
            table[:, rows_N[rows_N >= 0]] = values_CN[:, rows_N >= 0]
    segments = -(-lengths // asked.segment)
    first_segment_N = np.repeat(np.cumsum(segments) - segments, lengths)
    scores = Scores(
        protocol={
            "variant": variant_name(reader),
            "lanes": lanes,
            "processes": asked.world,
            "memory_bytes_a_lane": num_bytes(memory) // lanes,
            **_update_filter_counts(asked, memory, track),
        },
        **columns,
        segment=(first_segment_N + columns["position"] // asked.segment).astype(np.int32),
        nats=table[0],
    )
    if not track:
        return scores
    fresh_article = asked.articles[0] if start is None else -1
    return dataclasses.replace(scores, distance=table[1], flush=_resets(reader, scores, asked.segment, fresh_article))


def text_columns(text: TokenisedSplit, articles: Sequence[int]) -> dict[str, Any]:
    """Return the columns of a score file that the text alone decides on, for ``articles`` in ascending order."""
    lengths, rows = np.diff(text.starts)[articles], np.concatenate([text.rows(article) for article in articles])
    return {
        "article": np.repeat(np.array(articles, dtype=np.int32), lengths),
        "position": np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        "token": text.ids_N[rows],
        "words": text.words_N[rows],
        "surface": [surface for article in articles for surface in text.surfaces(article)],
    }


def rows_of(segment: Segment, first_rows: np.ndarray) -> np.ndarray:
    """Return each token's row (B, T), -1 where there is none; ``first_rows`` has the first row of each article."""
    begins_B = first_rows[np.maximum(segment.article_B, 0)] + segment.position_B
    return np.where(segment.mask_BT, begins_B[:, None] + np.arange(segment.mask_BT.shape[1]), -1)


@contextmanager
def explain_out_of_memory(lanes: int) -> Iterator[None]:
    """Raise UserError where the block runs out of memory, on a CPU or a GPU."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
            reason = str(error).partition("\n")[0]
            do = "choose fewer lanes" if lanes > 1 else "choose a smaller memory.segment or cache"
            raise UserError(f"out of memory with memory.lanes {lanes} ({reason})", do=do) from error
        raise


def _update_filter_counts(asked: Evaluation, memory: Memory, track: bool) -> dict[str, Any]:
    """Return what the update filter rejected in the lanes of all processes and, with ``track``, the update sizes."""
    if memory.filter is None:
        return {}
    state, names = concatenate_lanes(asked.gather(to_device(memory.filter, "cpu"))), list(memory.params)
    first = {
        name: {"article": article, "segment": position // asked.segment}
        for name, (article, position) in first_of(state, names).items()
    }
    counts = {"guard": {**counts_of(state, names), "first": first}}
    return {**counts, "update_to_weight": ratios_of(state, names)} if track else counts


def _resets(reader: Reader, scores: Scores, segment: int, fresh_article: int) -> np.ndarray:
    """Return the share of the way back to theta_0 that the weights went before each token's segment, as their mean.

    It is 1 where they are reset; at an article's start under "stream" what the boundary reset adds to a step's decay;
    else the mean decay of a step, before the gates' factors. ``fresh_article`` was read first, by a fresh memory.
    """
    rule = reader.rule
    sizes = {name: reader.static[name].numel() for name in rule.tensors}

    def mean(of_tensor: Mapping[str, Tensor | float]) -> float:
        total = sum(float(torch.as_tensor(of_tensor.get(name, 0.0)).mean()) * size for name, size in sizes.items())
        return total / sum(sizes.values())

    step, boundary = mean(rule.decays()), mean(rule.boundary_resets())
    opening = 1.0 if reader.reset == "article" else step + (1 - step) * boundary
    shares_N = np.where(scores.position < segment, opening, step).astype(np.float32)
    if reader.reset == "stream":
        shares_N[(scores.article == fresh_article) & (scores.position < segment)] = 0
    return shares_N
