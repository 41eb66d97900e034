"""A model is tried before it is read: what keeps no keys and values of each token is refused at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")

from dynlm.errors import UserError
from dynlm.models.hf.model import HFModel
from dynlm.models.hf.options import HFOptions
from dynlm.models.hf.trial import check_segments
from dynlm.types import Params
from tests.models.hf.test_model import model_of
from tests.models.hf.tiny import FAMILIES, tiny


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(family: str, dtype: torch.dtype) -> None:
    model, params = model_of(family, dtype, context=2, stride=1)
    check_segments(model, params, "it")


@pytest.mark.parametrize("family", ["mamba", "falcon"])
def test_another_kind_of_state_is_refused(family: str) -> None:
    module = tiny(family)
    model = HFModel.of(module, HFOptions(kind="hf", context=64, stride=32))
    params = {name: tensor.detach() for name, tensor in module.named_parameters()}
    with pytest.raises(UserError, match="it: this kind of model cannot be read in segments") as error:
        check_segments(model, params, "it")
    assert "\n" not in str(error.value)


def test_other_predictions_than_those_of_the_whole_are_refused() -> None:
    class Forgetful(HFModel):
        def forward(self, params: Params, state: Any, inputs_BT: torch.Tensor) -> Any:
            return super().forward(params, self.init_state(len(inputs_BT), next(iter(params.values()))), inputs_BT)

    model, params = model_of("llama")
    forgetful = Forgetful(model.options, model.module)
    with pytest.raises(UserError, match="it: this kind of model predicts otherwise in segments than as a whole"):
        check_segments(forgetful, {name: 5 * tensor for name, tensor in params.items()}, "it")
    infinite = {name: torch.full_like(tensor, torch.inf) for name, tensor in params.items()}
    with pytest.raises(UserError, match=r"it: its logits in torch\.float64 are not finite"):
        check_segments(dataclasses.replace(model), infinite, "it")
