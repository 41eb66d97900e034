"""What CUDA graphs save: tokens a second that the rms rule reads on a GPU, with and without them.

    python -m benchmarks.capture [--segments 200]

Weights and text are random, in the shape of configs/wikitext-2-small.yaml. Prints one line for each number of lanes.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.uniform import uniform_rule
from dynlm.adapt.update_filter import UpdateFilter
from dynlm.data.stream import Stream, read_side_by_side
from dynlm.data.tokenised_split import TokenisedSplit, Tokens
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.options import LSTMOptions
from dynlm.models.registry import EngineSettings, engine_for

SEGMENT, WARM_UP = 20, 20


def text(model: LSTMLanguageModel, lanes: int, segments: int) -> Stream:
    """Return a stream in which every lane reads one long article."""
    count = lanes * segments * SEGMENT
    ids = np.random.default_rng(0).integers(0, model.vocab_size, count).astype(np.int32)
    ones, lengths = np.ones(count, dtype=np.int32), np.full(lanes, segments * SEGMENT)
    tokens = Tokens(ids, ones, ones.astype(np.int16), np.zeros(0, dtype=np.int64), np.zeros(count, np.uint8), lengths)
    split = TokenisedSplit.from_tokens(tokens, [str(n) for n in range(lanes)], 0)
    return read_side_by_side(split, SEGMENT, range(lanes), lanes)


def tokens_per_second(model: LSTMLanguageModel, settings: EngineSettings, stream: Stream, device: str) -> float:
    """Return the rate after the first segments, in which the graph is recorded."""
    generator = torch.Generator().manual_seed(0)
    static = {name: tensor.to(device) for name, tensor in model.init_params(generator).items()}
    rms = {name: (torch.rand(t.shape, generator=generator) * 2e-3).to(device) for name, t in static.items()}
    rule = uniform_rule("rms", static, 2.4e-3, 2e-3, (Statistics(rms), 1e-3))
    filter_ = UpdateFilter.for_model(static, static, model.vocab_size)
    dynamic_model = DynamicModel(engine_for(model, settings), static, rule, tuple(static), "article", filter=filter_)
    segments = iter_segments(dynamic_model, stream)
    for _ in itertools.islice(segments, WARM_UP):
        pass
    torch.cuda.synchronize()
    begun, count = time.perf_counter(), 0
    for read in segments:
        count += read.segment.mask_BT.sum()
    torch.cuda.synchronize()
    return float(count / (time.perf_counter() - begun))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=200)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.capture needs a GPU")
    model = LSTMLanguageModel(LSTMOptions(embedding=192, hidden=192), 8000)
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}")
    for lanes in (1, 4, 16):
        rates = {
            captures: tokens_per_second(
                model, EngineSettings(captures=captures), text(model, lanes, options.segments), "cuda"
            )
            for captures in (False, True)
        }
        print(f"{lanes:3} lanes: {rates[False]:9,.0f} tokens/s, with CUDA graphs {rates[True]:9,.0f}", flush=True)


if __name__ == "__main__":
    main()
