"""R: the root mean square of training gradients, of segments and of batches, beside naive loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.rules.registry import SEGMENTS, StatisticsKind
from dynlm.adapt.statistics import batch_statistics, gradient_statistics
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.protocol import token_nats
from dynlm.runtime.tree import detach
from dynlm.types import Params
from tests.adapt.readings import MODEL, NAMES, set_lanes_at_once, static_params, stream, text


def level_1(names: tuple[str, ...] = NAMES) -> DynamicModel:
    return DynamicModel(LSTMEngine(MODEL), static_params(), LEVEL_1, names)


def segment_gradients(inputs_N: Tensor, targets_N: Tensor, segment: int) -> list[Params]:
    """The gradient of each segment's mean loss, read alone and in turn."""
    static, found = static_params(), []
    state = MODEL.init_state(1, static["embedding"])
    for begin in range(0, len(targets_N), segment):
        params = {name: tensor.clone().requires_grad_() for name, tensor in static.items()}
        part = slice(begin, begin + segment)
        output = MODEL.twice_differentiable().forward(params, state, inputs_N[None, part])
        loss = token_nats(output.logits_BTV, targets_N[None, part]).mean()
        found.append(dict(zip(params, torch.autograd.grad(loss, [*params.values()]), strict=True)))
        state = detach(output.state)
    return found


def root_mean_square(gradients: list[Tensor]) -> Tensor:
    return torch.stack(gradients).square().mean(0).sqrt()


def test_statistics_are_the_root_mean_square_of_segment_gradients() -> None:
    split = text((20,))
    found = gradient_statistics(level_1(("output.bias",)), stream(split), tokens=20).rms["output.bias"]
    inputs_N, targets_N = (torch.from_numpy(each).long() for each in (split.inputs(0), split.ids_N))
    expected = root_mean_square([u["output.bias"] for u in segment_gradients(inputs_N, targets_N, 5)])
    torch.testing.assert_close(found, expected)


def naive_batches(split: TokenisedSplit, lanes: int, segment: int, batches: int) -> Params:
    """Mean the gradients of lanes that are read one after the other, then take the root mean square over batches."""
    size, ids_N = len(split.ids_N) // lanes, torch.from_numpy(split.ids_N).long()
    of_lanes = []
    for lane in range(lanes):
        targets_N = ids_N[lane * size :][: batches * segment]
        inputs_N = torch.cat([targets_N.new_tensor([split.start_token]), targets_N[:-1]])
        of_lanes.append(segment_gradients(inputs_N, targets_N, segment))
    means = [
        {name: torch.stack([u[name] for u in batch]).mean(0) for name in NAMES} for batch in zip(*of_lanes, strict=True)
    ]
    return {name: root_mean_square([mean[name] for mean in means]) for name in NAMES}


@pytest.mark.parametrize("at_once", [1, 2, 16])
@pytest.mark.parametrize(
    "lanes, segment, tokens, batches", [(3, 4, 10**6, 5), (3, 4, 26, 2), (1, 7, 21, 3), (7, 5, 1, 1)]
)
def test_statistics_of_batches_equal_a_naive_loop(
    lanes: int, segment: int, tokens: int, batches: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pieces begin within articles and cross their ends."""
    set_lanes_at_once(monkeypatch, at_once)
    found = batch_statistics(level_1(), text(), StatisticsKind(lanes, segment), tokens).rms
    expected = naive_batches(text(), lanes, segment, batches)
    assert list(found) == list(NAMES) and not any(tensor.requires_grad for tensor in found.values())
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-14)


def test_batches_of_one_lane_are_segments() -> None:
    split = text((40,))
    expected = gradient_statistics(level_1(), stream(split), tokens=40).rms
    found = batch_statistics(level_1(), split, StatisticsKind(1, 5), 40).rms
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-14)


def test_only_tensors_that_move_have_statistics() -> None:
    assert list(batch_statistics(level_1(("output.bias",)), text(), StatisticsKind(2, 5), 10).rms) == ["output.bias"]


def test_a_text_shorter_than_a_batch_is_refused() -> None:
    message = r"62 tokens, fewer than a batch of memory\.statistics_lanes 20 sequences of memory\.segment 5 tokens"
    with pytest.raises(UserError, match=message):
        batch_statistics(level_1(), text(), StatisticsKind(20, 5), 1000)


def test_kinds_are_found_by_the_names_of_their_files() -> None:
    for kind in (SEGMENTS, StatisticsKind(100, 5), StatisticsKind(1, 100_000)):
        assert StatisticsKind.named(kind.name) == kind
    for name in ("statistics-5", "statistics-100x5-stream", "statistics-0x5", "statistics-05x5", "my-statistics", ""):
        assert StatisticsKind.named(name) is None
    assert (str(SEGMENTS), str(StatisticsKind(100, 5))) == (
        "gradient statistics R",
        "gradient statistics R of batches of 100 x 5 tokens",
    )
