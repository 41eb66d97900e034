"""Whether a model can be read in segments: some keep another state than keys and values of each token."""

from __future__ import annotations

import dataclasses

import torch

from dynlm.errors import UserError
from dynlm.models.hf.model import HFModel
from dynlm.types import Params

_TOKENS, _SEGMENT = 6, 3
_TOLERANCE = 0.01
"""Of the range of the logits. Half precision rounds more, and is not compared."""
_OTHER = "choose a model whose layers attend to cached keys and values"


@torch.no_grad()
def check_segments(model: HFModel, params: Params, source: str) -> None:
    """Raise UserError unless a few tokens that are read in segments have the logits that they have as a whole.

    The message names ``source``.
    """
    options = dataclasses.replace(model.options, context=2 * _TOKENS, stride=2 * _TOKENS, refresh=0)
    short, first = dataclasses.replace(model, options=options), next(iter(params.values()))
    ids_1T = torch.arange(_TOKENS, device=first.device)[None] % model.vocab_size
    try:
        weights = model.weights(params, first.device)
        whole = torch.func.functional_call(model.module, weights, (ids_1T,), {"use_cache": False}).logits
        state, parts = short.init_state(1, first), []
        for inputs_1T in ids_1T.split(_SEGMENT, 1):
            output = short.forward(params, state, inputs_1T)
            parts.append(output.logits_BTV)
            state = output.state
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(f"this kind of model cannot be read in segments ({reason})", source, _OTHER) from error
    difference, spread = (torch.cat(parts, 1) - whole).abs().max(), whole.max() - whole.min()
    if not bool(difference.isfinite()):
        raise UserError(f"its logits in {first.dtype} are not finite", source, "choose another dtype")
    if whole.itemsize > 2 and difference > _TOLERANCE * spread:
        what = "this kind of model predicts otherwise in segments than as a whole"
        raise UserError(what, source, _OTHER)
