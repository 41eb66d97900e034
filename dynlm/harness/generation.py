"""The options of generation of a request, in the names that the harness's tasks use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynlm.errors import UserError
from dynlm.evaluation.sampling import Sampling, Stop
from dynlm.runtime.validation import shortened

_DEFAULT_TOKENS = 256
_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Most tokens to generate; the first that is given counts."""
_NO_EFFECT = {
    **{"typical_p": 1, "min_p": 0, "num_beams": 1, "num_return_sequences": 1},
    **{"repetition_penalty": 1, "length_penalty": 1, "no_repeat_ngram_size": 0},
}
"""Options that are accepted with the value that changes nothing."""
_OF_SAMPLING = ("typical_p", "min_p")
_IGNORED = ("use_cache", "early_stopping")


def generation_of(options: Mapping[str, Any], end_tokens: frozenset[int], seed: int) -> tuple[Sampling, Stop]:
    """Return how to generate, and what ends the text.

    Without ``do_sample``, a temperature above 0 samples; with it, the default is 1. Raises UserError, naming the
    option, for one that is not supported or out of its range.
    """
    values = dict(options)
    until = values.pop("until", None) or ()
    stop = Stop((until,) if isinstance(until, str) else tuple(map(str, until)), end_tokens)
    given = [values.pop(name) for name in _TOKENS if name in values]
    tokens = next((value for value in given if value is not None), _DEFAULT_TOKENS)
    temperature, top_k, top_p = (values.pop(name, None) for name in ("temperature", "top_k", "top_p"))
    samples = values.pop("do_sample", None)
    samples = bool(temperature) if samples is None else bool(samples)
    for name, value in values.items():
        ignored = name in _IGNORED or (name in _OF_SAMPLING and not samples)
        if not ignored and value is not None and value != _NO_EFFECT.get(name):
            raise UserError(f"gen_kwargs: {name} is {shortened(value)}, which is not supported", do="leave it out")
    try:
        if not samples:
            return Sampling(int(tokens), 0.0, 0, 1.0, seed), stop
        warmth, nucleus = (1.0 if value is None else float(value) for value in (temperature, top_p))
        return Sampling(int(tokens), warmth, int(top_k or 0), nucleus, seed), stop
    except (TypeError, ValueError) as error:
        raise UserError(f"gen_kwargs: not a number ({error})", do="write numbers") from error
