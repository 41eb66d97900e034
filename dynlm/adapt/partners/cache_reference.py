"""``Cache.read`` a lane and a token at a time, pair by pair: the reference.

Legend: B lanes, T tokens of a segment, H width of the features.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from dynlm.adapt.partners.cache import LARGEST_GAIN, LATELY, SMALLEST_P, Cache, CacheState, NextTokenDistribution
from dynlm.adapt.partners.cache_gate import Gate


@torch.no_grad()
def naive_read(
    cache: Cache,
    state: CacheState,
    features_BTH: Tensor,
    targets_BT: Tensor,
    mask_BT: Tensor,
    nats_BT: Tensor,
    told: NextTokenDistribution | None = None,
) -> tuple[Tensor, CacheState]:
    """(nats of the mixture, the next state), as ``Cache.read``; ``state`` stays as it is."""
    told = told if isinstance(cache.gate, Gate) else None
    state, mixed_BT = state.copy(), nats_BT.clone()
    slots = state.keys_BCH.shape[1]
    for lane, token in itertools.product(*map(range, targets_BT.shape)):
        if not mask_BT[lane, token]:
            continue
        written, target, model = int(state.written_B[lane]), int(targets_BT[lane, token]), float(nats_BT[lane, token])
        in_sight = [number % slots for number in range(max(0, written - cache.window), written)]
        pairs = [
            (float(features_BTH[lane, token] @ state.keys_BCH[lane, slot]), int(state.tokens_BC[lane, slot]))
            for slot in in_sight
        ]
        gains = [0.0] * len(cache.flatness)
        if pairs:
            by_token = [_distribution(pairs, flatness) for flatness in cache.flatness]
            p = [math.exp(-model), *(shares.get(target, 0.0) for shares, _ in by_token)]
            gains = [math.log((1 + min(of_cache / p[0], math.exp(LARGEST_GAIN))) / 2) for of_cache in p[1:]]
            if isinstance(cache.gate, Gate):
                assert told is not None
                of_model_V = told.scaled_BTV[lane, token] / told.total_BT1[lane, token]
                evidence = _evidence(cache, state, lane, len(pairs), max(pairs)[1], of_model_V, by_token)
                shares = cache.gate.log_shares(nats_BT.new_tensor(evidence)).exp().tolist()
            else:
                shares = [1 - cache.gate, cache.gate]
            mixed_BT[lane, token] = -math.log(sum(share * each for share, each in zip(shares, p, strict=True)))
        state.keys_BCH[lane, written % slots] = features_BTH[lane, token]
        state.tokens_BC[lane, written % slots] = target
        state.written_B[lane] += 1
        state.position_B[lane] += 1
        if told is not None:
            state.gain_BF[lane] = LATELY * state.gain_BF[lane] + (1 - LATELY) * nats_BT.new_tensor(gains)
    return mixed_BT, state


def _distribution(pairs: list[tuple[float, int]], flatness: float) -> tuple[dict[int, float], list[float]]:
    """(p of each token among the pairs, the weight of each pair)."""
    top = max(likeness for likeness, _ in pairs)
    weights = [math.exp(flatness * (likeness - top)) for likeness, _ in pairs]
    by_token: dict[int, float] = {}
    for weight, (_, token) in zip(weights, pairs, strict=True):
        by_token[token] = by_token.get(token, 0.0) + weight / sum(weights)
    return by_token, [weight / sum(weights) for weight in weights]


def _evidence(
    cache: Cache,
    state: CacheState,
    lane: int,
    sight: int,
    likeliest: int,
    of_model_V: Tensor,
    by_token: list[tuple[dict[int, float], list[float]]],
) -> list[float]:
    """The gate's evidence of one token, in the order of ``cache_gate.evidence_names``."""
    return [
        math.log(float(of_model_V.max())),
        math.log(float((of_model_V**2).sum())),
        math.log(max(float(of_model_V[likeliest]), SMALLEST_P)),
        math.log1p(sight),
        math.log1p(int(state.position_B[lane])),
        *(math.log(max(weights)) for _, weights in by_token),
        *(math.log(sum(weight**2 for weight in weights)) for _, weights in by_token),
        *(math.log(shares[likeliest]) for shares, _ in by_token),
        *state.gain_BF[lane].tolist(),
    ]
