"""Gradients of a segment: by dynlm's attention, and with checkpointed layers, those of the model's own source."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")

from dynlm.errors import UserError
from dynlm.models.autograd_engine import AutogradEngine
from dynlm.models.hf.model import HFModel
from dynlm.types import Params
from tests.models.hf.test_model import TOKENS_BT, model_of
from tests.models.hf.tiny import FAMILIES


def gradients_after_context(model: HFModel, params: Params) -> tuple[torch.Tensor, Params]:
    """Return a segment's losses after 20 tokens of context (in one lane of three: 10), and each lane's gradients."""
    engine, names = AutogradEngine(model), tuple(params)
    lanes = {name: tensor.expand(3, *tensor.shape).clone() for name, tensor in params.items()}
    state = model.init_state(3, next(iter(params.values())))
    for begin in (0, 10):
        if begin:
            starts_B = torch.tensor([False, True, False])
            state = model.reset_state(state, starts_B, next(iter(params.values())))
        part = slice(begin, begin + 10)
        state = engine.score(params, lanes, TOKENS_BT[:, part], TOKENS_BT[:, part], state, ()).state
    scored = engine.score(params, {}, TOKENS_BT[:, 20:28], TOKENS_BT[:, 21:29], state)
    share_BT = torch.full((3, 8), 1 / 8, dtype=torch.float64)
    return scored.nats_BT, {found.name: found.tensor.clone() for found in engine.gradients(scored, share_BT, names)}


@pytest.mark.parametrize(
    "options", [{"attention": "segment"}, {"attention": "sdpa", "checkpointing": True}], ids=["segment", "checkpointed"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_the_models_source(family: str, options: dict[str, Any]) -> None:
    if options.get("checkpointing") is None:
        options = {**options, "checkpointing": family == "mistral"}
    expected = gradients_after_context(*model_of(family, attention="eager"))
    found = gradients_after_context(*model_of(family, **options))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-7)
    for name, tensor in expected[1].items():
        assert tensor.abs().max() > 0 or "bias" in name or "wpe" in name, name
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-7, msg=name)


def test_checkpointed_layers_keep_less_for_the_backward_pass() -> None:
    kept = {}
    for checkpointing in (False, True):
        model, params = model_of("llama", checkpointing=checkpointing)
        bytes_kept = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal bytes_kept
            bytes_kept += tensor.nbytes
            return tensor

        leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.forward(leaves, model.init_state(3, TOKENS_BT.double()), TOKENS_BT[:, :40])
        kept[checkpointing] = bytes_kept
    assert kept[True] < 0.5 * kept[False]


def test_attention_that_is_of_another_kind_is_refused() -> None:
    model, params = model_of("gemma2")
    with pytest.raises(UserError, match="model.attention is 'segment'"):
        model.forward(params, model.init_state(3, TOKENS_BT.double()), TOKENS_BT[:, :20])
    other, _ = model_of("gemma2", attention="eager")
    assert other.forward(params, other.init_state(3, TOKENS_BT.double()), TOKENS_BT[:, :20]).logits_BTV.isfinite().all()
