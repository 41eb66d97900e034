"""One pass of a model over articles: the loss of every token, each segment scored before it is learned from.

Legend: B lanes, T tokens of a segment, N tokens read (masked ones too), C columns of the score file.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dynlm.adapt.dynamic_model import DynamicModel, Memory, distance
from dynlm.adapt.loop import SegmentResult, iter_segments
from dynlm.adapt.state_tensors import as_tensors, from_tensors
from dynlm.adapt.update_filter import counts_of, first_of, ratios_of
from dynlm.data.stream import Segment, Stream, StreamPosition, read_side_by_side
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation.protocol import variant_name
from dynlm.evaluation.score_file import Scores
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints, State
from dynlm.runtime.cost import Cost, CostMeter
from dynlm.runtime.distributed import Processes
from dynlm.runtime.tree import concatenate_lanes, num_bytes, to_device

_MEMORY = "memory/"


@dataclass(frozen=True)
class Evaluation:
    """What is read, by what, and how: ``articles`` of ``text`` (in this order) in segments of ``segment`` tokens.

    With ``track`` the distance of the dynamic weights from theta_0 and their resets are recorded beside each loss.
    """

    dynamic_model: DynamicModel
    text: TokenisedSplit
    articles: Sequence[int]
    segment: int
    lanes: int = 1
    track: bool = False
    processes: Processes = field(default_factory=Processes)


class _Pass:
    """The state of an evaluation between two segments, for checkpoints.

    ``distance_B`` is that of the weights that read the next segment; ``rows`` and ``values`` of the tokens stay on the
    device until the end. ``meter`` measures the reading, without loading and saving.
    """

    def __init__(self, dynamic_model: DynamicModel, stream: Stream, start: Memory | None, track: bool):
        self.dynamic_model, self.lanes, self.track = dynamic_model, stream.local_lanes, track
        self.memory = dynamic_model.fresh_memory(self.lanes) if start is None else start
        self.position = stream.begin()
        self.distance_B = torch.zeros(self.lanes, device=dynamic_model.device)
        if track and start is not None:
            self.distance_B = distance(self.memory, dynamic_model)
        self.rows: list[np.ndarray] = []
        self.values: list[Tensor] = []
        self.meter = CostMeter(dynamic_model.device)

    def add(self, read: SegmentResult, first_rows: np.ndarray) -> None:
        """Record a segment's losses, and the distance of the weights that it was read with."""
        self.memory, self.position = read.memory, read.position
        self.rows.append(rows_of(read.segment, first_rows).ravel())
        columns = [read.nats_BT]
        if self.track:
            if self.dynamic_model.reset == "article":
                starts_B = torch.from_numpy(read.segment.starts_B).to(self.distance_B.device)
                self.distance_B = self.distance_B.masked_fill(starts_B, 0)
            columns.append(self.distance_B[:, None].expand_as(read.nats_BT))
            self.distance_B = distance(self.memory, self.dynamic_model)
        self.values.append(torch.stack(columns).flatten(1).float())

    def state_dict(self) -> State:
        cost = self.meter.cost()
        self.rows, self.values = [np.concatenate(self.rows)], [torch.cat(self.values, 1)]
        memory = as_tensors(self.memory, self.dynamic_model, self.lanes)
        tensors = {_MEMORY + name: tensor for name, tensor in memory.items()}
        tensors |= {"rows": torch.from_numpy(self.rows[0]), "values": self.values[0], "distance": self.distance_B}
        return State(tensors, {"position": self.position.to_dict(), "cost": cost._asdict()})

    def load_state_dict(self, state: State) -> None:
        tensors = {name: tensor.to(self.distance_B.device) for name, tensor in state.tensors.items()}
        memory = {name[len(_MEMORY) :]: tensor for name, tensor in tensors.items() if name.startswith(_MEMORY)}
        self.memory = from_tensors(memory, self.dynamic_model, self.lanes)
        self.position = StreamPosition.from_dict(state.values["position"])
        self.meter.before = Cost.of(state.values["cost"])
        self.rows, self.values = [state.tensors["rows"].numpy()], [tensors["values"]]
        self.distance_B = tensors["distance"]


def evaluate(
    evaluation: Evaluation,
    start: Memory | None = None,
    checkpoints: Checkpoints | None = None,
    seconds: float = 0.0,
    quiet: bool = True,
) -> Scores:
    """Read the articles once and return the loss of each token, with rows in the split's own order.

    The reading starts with the memory ``start`` (None: a fresh one), which is overwritten, or resumes at the newest of
    ``checkpoints``, which are saved every so many ``seconds`` (0: after each segment). The protocol of the result holds
    only what the pass itself knows.
    """
    dynamic_model, text, segment = evaluation.dynamic_model, evaluation.text, evaluation.segment
    articles, track = sorted(evaluation.articles), evaluation.track and dynamic_model.rule.learns
    if track and dynamic_model.filter is not None:
        tracking = dataclasses.replace(dynamic_model.filter, track=True)
        dynamic_model = dataclasses.replace(dynamic_model, filter=tracking)
    rank, world = evaluation.processes.rank, evaluation.processes.world
    lanes = min(evaluation.lanes, -(-len(articles) // world))
    stream = read_side_by_side(text, segment, evaluation.articles, lanes, rank, world)
    if dynamic_model.is_static and dynamic_model.mixture is None and stream.lanes == 1:
        longest = dynamic_model.engine.tokens_at_once(dynamic_model.static, segment)
        stream = dataclasses.replace(stream, longest=longest)
    columns = text_columns(text, articles)
    lengths = np.diff(text.starts)[articles]
    first_rows = np.zeros(text.articles, dtype=np.int64)
    first_rows[articles] = np.cumsum(lengths) - lengths
    work = _Pass(dynamic_model, stream, start, track)
    checkpointer = Checkpointer(checkpoints, work, every=0, seconds=seconds)
    checkpointer.resume()
    bar = tqdm(total=len(columns["token"]), desc="score", unit="tok", unit_scale=True, disable=quiet)
    bar.update(work.position.tokens)
    with checkpointer, bar:
        reading = iter_segments(dynamic_model, stream, work.memory, work.position)
        while True:
            with work.meter.running():
                if (read := next(reading, None)) is None:
                    break
                work.add(read, first_rows)
            bar.update(read.position.tokens - bar.n)
            checkpointer.after_step(read.position.tokens)
    costs = evaluation.processes.gather_object(work.meter.cost())
    table = np.full((1 + track, len(columns["token"])), np.nan, dtype=np.float32)
    own = (np.concatenate(work.rows), torch.cat(work.values, 1).cpu().numpy()) if work.rows else None
    for part in evaluation.processes.gather_object(own):
        if part is not None:
            rows_N, values_CN = part
            table[:, rows_N[rows_N >= 0]] = values_CN[:, rows_N >= 0]
    segments = -(-lengths // segment)
    first_segment_N = np.repeat(np.cumsum(segments) - segments, lengths)
    columns["segment"] = (first_segment_N + columns["position"] // segment).astype(np.int32)
    protocol = {"variant": variant_name(dynamic_model), "lanes": lanes, "processes": world}
    protocol["memory_bytes_a_lane"] = num_bytes(work.memory) // lanes
    protocol["cost"] = functools.reduce(Cost.beside, costs)._asdict()
    scores = Scores({**protocol, **_update_filter_counts(evaluation, work.memory, track)}, **columns, nats=table[0])
    if not track:
        return scores
    resets_N = _resets(dynamic_model, scores, segment, evaluation.articles[0] if start is None else -1)
    return dataclasses.replace(scores, distance=table[1], reset_share=resets_N)


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
    article_B, position_B = segment.position_B2.T
    begins_B = first_rows[np.maximum(article_B, 0)] + position_B
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


def _update_filter_counts(evaluation: Evaluation, memory: Memory, track: bool) -> dict[str, Any]:
    """Return what the update filter rejected in the lanes of all processes and, with ``track``, the update sizes."""
    if memory.filter is None:
        return {}
    lanes = evaluation.processes.gather_object(to_device(memory.filter, "cpu"))
    state, names = concatenate_lanes(lanes), evaluation.dynamic_model.dynamic
    first = {n: {"article": a, "segment": p // evaluation.segment} for n, (a, p) in first_of(state, names).items()}
    counts = {"update_filter": {**counts_of(state, names), "first": first}}
    return {**counts, "update_to_weight": ratios_of(state, names)} if track else counts


def _resets(dynamic_model: DynamicModel, scores: Scores, segment: int, fresh_article: int) -> np.ndarray:
    """Return the share of the way back to theta_0 that the weights went before each token's segment, as their mean.

    It is 1 where they are reset; at an article's start under "stream" what the boundary reset adds to a step's decay;
    else the mean decay of a step, before the gates' factors. ``fresh_article`` was read first, by a fresh memory.
    """
    rule = dynamic_model.rule
    sizes = {name: dynamic_model.static[name].numel() for name in rule.tensors}

    def mean(of_tensor: Mapping[str, Tensor | float]) -> float:
        total = sum(float(torch.as_tensor(of_tensor.get(name, 0.0)).mean()) * size for name, size in sizes.items())
        return total / sum(sizes.values())

    step, boundary = mean(rule.decays()), mean(rule.boundary_reset)
    opening = 1.0 if dynamic_model.reset == "article" else step + (1 - step) * boundary
    shares_N = np.where(scores.position < segment, opening, step).astype(np.float32)
    if dynamic_model.reset == "stream":
        shares_N[(scores.article == fresh_article) & (scores.position < segment)] = 0
    return shares_N
