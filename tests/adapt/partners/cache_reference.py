"""``Cache.read`` a lane and a token at a time, pair by pair: the reference.

Legend: B lanes, T tokens of a segment, H width of the features.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from dynlm.adapt.partners.cache import GAIN_DECAY, LARGEST_GAIN, SMALLEST_P, Cache, CacheInput, CacheState
from dynlm.adapt.partners.cache_gate import Gate, log_shares
from dynlm.runtime.tree import clone


@torch.no_grad()
def naive_read(cache: Cache, state: CacheState, segment: CacheInput) -> tuple[Tensor, CacheState]:
    """Return (nats of the mixture, the next state), as ``Cache.read``; ``state`` stays as it is."""
    features_BTH, targets_BT, mask_BT, nats_BT, next_tokens = segment
    state, mixed_BT = clone(state), nats_BT.clone()
    slots = state.keys_BCH.shape[1]
    for lane, token in itertools.product(*map(range, targets_BT.shape)):
        if not mask_BT[lane, token]:
            continue
        written, target, model = int(state.written_B[lane]), int(targets_BT[lane, token]), float(nats_BT[lane, token])
        visible = [number % slots for number in range(max(0, written - cache.window), written)]
        pairs = [
            (float(features_BTH[lane, token] @ state.keys_BCH[lane, slot]), int(state.tokens_BC[lane, slot]))
            for slot in visible
        ]
        gains = [0.0] * len(cache.inverse_temperatures)
        if pairs:
            by_token = [_distribution(pairs, value) for value in cache.inverse_temperatures]
            p = [math.exp(-model), *(shares.get(target, 0.0) for shares, _ in by_token)]
            gains = [math.log((1 + min(of_cache / p[0], math.exp(LARGEST_GAIN))) / 2) for of_cache in p[1:]]
            if isinstance(cache.gate, Gate):
                assert next_tokens is not None
                of_model_V = next_tokens.scaled_BTV[lane, token] / next_tokens.total_BT1[lane, token]
                features = [
                    *_of_model(of_model_V, max(pairs)[1]),
                    math.log1p(len(pairs)),
                    math.log1p(int(state.position_B[lane])),
                    *_of_cache(by_token, max(pairs)[1]),
                    *state.gain_BF[lane].tolist(),
                ]
                shares = log_shares(cache.gate.params, nats_BT.new_tensor(features)).exp().tolist()
            else:
                shares = [1 - cache.gate, cache.gate]
            mixed_BT[lane, token] = -math.log(sum(share * each for share, each in zip(shares, p, strict=True)))
        state.keys_BCH[lane, written % slots] = features_BTH[lane, token]
        state.tokens_BC[lane, written % slots] = target
        state.written_B[lane] += 1
        state.position_B[lane] += 1
        if isinstance(cache.gate, Gate):
            state.gain_BF[lane] = GAIN_DECAY * state.gain_BF[lane] + (1 - GAIN_DECAY) * nats_BT.new_tensor(gains)
    return mixed_BT, state


def _distribution(pairs: list[tuple[float, int]], inverse_temperature: float) -> tuple[dict[int, float], list[float]]:
    """Return (p of each token among the pairs, the weight of each pair)."""
    top = max(likeness for likeness, _ in pairs)
    weights = [math.exp(inverse_temperature * (likeness - top)) for likeness, _ in pairs]
    by_token: dict[int, float] = {}
    for weight, (_, token) in zip(weights, pairs, strict=True):
        by_token[token] = by_token.get(token, 0.0) + weight / sum(weights)
    return by_token, [weight / sum(weights) for weight in weights]


def _of_model(p_V: Tensor, top_token: int) -> list[float]:
    """Return the model's gate features, in the order of ``cache_gate.gate_feature_names``."""
    return [
        math.log(float(p_V.max())),
        math.log(float((p_V**2).sum())),
        math.log(max(float(p_V[top_token]), SMALLEST_P)),
    ]


def _of_cache(by_token: list[tuple[dict[int, float], list[float]]], top_token: int) -> list[float]:
    """Return the cache's gate features but for the gains."""
    return [
        *(math.log(max(weights)) for _, weights in by_token),
        *(math.log(sum(weight**2 for weight in weights)) for _, weights in by_token),
        *(math.log(shares[top_token]) for shares, _ in by_token),
    ]
