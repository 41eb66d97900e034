"""A pretrained model as a trained one, with defaults of its reading: for adopting, attaching and the harness."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.registry import RULES
from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.pretrained import PretrainedTokenizer
from dynlm.models.protocol import SequenceModel
from dynlm.run.folder import TrainedModel
from dynlm.runtime.tensors import params_fingerprint

if TYPE_CHECKING:
    from dynlm.models.hf.load import Pretrained

CONTEXT, SEGMENT = 1024, 128
"""Tokens attended to and read between updates, where they are not given."""


class Missing(NamedTuple):
    """What the options of a memory need that is not given: constants of a rule or a cache, or what only a run keeps.

    ``names``: the options that would give the constants.
    """

    kind: Literal["learned", "statistics", "constants", "gate", "cache"]
    what: str
    names: list[str]


def default_window(context: object, positions: int | None) -> dict[str, int]:
    """Return the default ``context`` (of a model with so many positions) and ``stride``, half of the context.

    A ``context`` that is given is kept.
    """
    size = context if isinstance(context, int) else min(CONTEXT, positions or CONTEXT)
    return {"context": size, "stride": max(1, size // 2)}


def default_segment(model: SequenceModel) -> int:
    """Return the tokens between two updates of a transformer."""
    window: Any = model.options
    return min(SEGMENT, window.stride)


def dtype_of(found: Pretrained) -> str:
    """Return the name of the weights' type, as ``model.dtype`` has it."""
    return str(next(iter(found.params.values())).dtype).removeprefix("torch.")


def trained_model(found: Pretrained, model: Any, about: dict[str, Any]) -> TrainedModel:
    """Return ``model`` (an ``HFModel``) with the weights and the tokenizer of ``found``; ``about`` begins its card.

    The tokenizer is a copy: reading sets options of it, as its owner may too. Raises UserError for a model that cannot
    be read in segments.
    """
    from dynlm.models.hf.trial import check_segments

    check_segments(model, found.params, str(about.get("adopted_from") or about.get("class") or "the model"))
    tokens = TokenizerOptions(kind="pretrained", vocab_size=model.vocab_size)
    card = {
        **about,
        "parameters": sum(tensor.numel() for tensor in found.params.values()),
        "fingerprint": params_fingerprint(found.params),
    }
    tokenizer = PretrainedTokenizer(tokens, copy.deepcopy(found.tokenizer), found.start)
    return TrainedModel(model, found.params, tokenizer, card)


def find_missing(memory: MemoryOptions, has_statistics: bool = False) -> Missing | None:
    """Return what ``memory`` needs and a model without a run's files does not have; None if there is nothing."""
    kind = RULES[memory.rule]
    if kind.learned:
        return Missing("learned", f"rule {memory.rule!r} needs parameters that were learned", [])
    if kind.statistics and not has_statistics:
        return Missing("statistics", f"rule {memory.rule!r} needs statistics of gradients", [])
    if names := [name for name, value in kind.constants(memory).items() if name in kind.searched and value is None]:
        return Missing("constants", f"rule {memory.rule!r} has no {' and no '.join(names)}", names)
    if memory.cache == "learned":
        return Missing("gate", "cache 'learned' needs a gate that was learned", [])
    if memory.cache == "fixed":
        names = [f"cache_{name}" for name, value in memory.cache_constants().items() if value is None]
        return Missing("cache", f"cache 'fixed' has no {' and no '.join(names)}", names) if names else None
    return None
