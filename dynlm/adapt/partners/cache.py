"""The continuous cache: recent features and the tokens that followed them (Grave, Joulin & Usunier 2017, 1612.04426).

    p_cache(w) = sum over pairs (h_i, x_i) in the window with x_i = w of exp(t h_t . h_i) / sum over all of them
    p(w) = share_0 p_model(w) + sum over inverse temperatures t of share_t p_cache,t(w)

h_i are the model's features and x_i the token that followed them. The window holds the ``window`` pairs before a token,
those of its own segment too; nothing at or after it. Shares are fixed or a gate's (``cache_gate``). The cache works
beside every rule: what a rule learns from stays the model's own loss.

Legend: B lanes, T tokens of a segment, C slots, H width of the features, F inverse temperatures, K gate features,
V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.partners.cache_gate import Gate, gate_feature_names, log_shares
from dynlm.models.scratch import Scratch
from dynlm.models.softmax import NextTokenDistribution
from dynlm.runtime.tree import map_tensors

LOOKED_UP_AT_ONCE = 64
"""Tokens that are written before they are looked up: there are as many slots more than the window."""
GAIN_DECAY = 0.98
"""Decay, a token, of the running average of each inverse temperature's gain."""
LARGEST_GAIN = 20.0
SMALLEST_P = 1e-7
"""Of the model's probabilities, as gate features."""


class CacheInput(NamedTuple):
    """A segment as a cache sees it. ``next_tokens`` is what a gate looks at; None for a cache without."""

    features_BTH: Tensor
    targets_BT: Tensor
    mask_BT: Tensor
    nats_BT: Tensor
    next_tokens: NextTokenDistribution | None = None


class CacheState(NamedTuple):
    """What B lanes' caches hold: a ring of pairs, how many were ever written, tokens since the article's start, and the
    running gain of each inverse temperature (nats, of an equal mixture with the model; for a gate)."""

    keys_BCH: Tensor
    tokens_BC: Tensor
    written_B: Tensor
    position_B: Tensor
    gain_BF: Tensor

    def is_sound(self, vocab_size: int) -> bool:
        """Return whether a state from a file can be read with: its tokens exist, and its counts are not negative."""
        tokens = (self.tokens_BC >= 0) & (self.tokens_BC < vocab_size)
        return bool(tokens.all() and (self.written_B >= 0).all() and (self.position_B >= 0).all())

    def joined(self, parts: Sequence[CacheState]) -> CacheState:
        """Return the state of all lanes after parts of this one, some lanes after others, were read in place."""
        if len(parts) == 1:
            return parts[0]
        rest = (torch.cat(tensors) for tensors in zip(*(part[2:] for part in parts), strict=True))
        return CacheState(self.keys_BCH, self.tokens_BC, *rest)


class CacheLookup(NamedTuple):
    """log p of each target by each inverse temperature (-inf: not in the window), how many pairs the window held, and
    the gate features, where a gate asks for them."""

    log_p_BTF: Tensor
    num_visible_BT: Tensor
    features_BTK: Tensor | None


@dataclass(frozen=True)
class Cache:
    """A cache's constants: ``window`` in tokens, the inverse temperature of each component, and ``gate``: the share of
    the one component, or the network that gives all shares."""

    window: int
    inverse_temperatures: tuple[float, ...]
    gate: float | Gate

    def fresh(self, lanes: int, width: int, like: Tensor) -> CacheState:
        """Return empty caches for features of ``width``."""
        keys_BCH = like.new_zeros(lanes, self.window + LOOKED_UP_AT_ONCE, width)
        tokens_BC = like.new_zeros(keys_BCH.shape[:2], dtype=torch.int64)
        none_B, gain_BF = tokens_BC.new_zeros(lanes), like.new_zeros(lanes, len(self.inverse_temperatures))
        return CacheState(keys_BCH, tokens_BC, none_B, none_B, gain_BF)

    def to(self, device: torch.device | str) -> Cache:
        """Return the same on ``device``."""
        return dataclasses.replace(self, gate=self.gate.to(device)) if isinstance(self.gate, Gate) else self

    def begin_articles(self, state: CacheState, starts_B: Tensor, empty: bool) -> CacheState:
        """Start articles in the lanes of ``starts_B`` (bool), with the cache ``empty`` or as it is."""
        state = state._replace(position_B=state.position_B.masked_fill(starts_B, 0))
        if not empty:
            return state
        # Pairs that stay in the slots are outside the window.
        written_B, gain_BF = state.written_B.masked_fill(starts_B, 0), state.gain_BF.masked_fill(starts_B[:, None], 0)
        return state._replace(written_B=written_B, gain_BF=gain_BF)

    def read(self, state: CacheState, segment: CacheInput, scratch: Scratch | None = None) -> tuple[Tensor, CacheState]:
        """Return (nats of the mixture, the next state).

        ``state`` is used up: its pairs are written over. Where the window is empty the nats are the model's, bit for
        bit. Masked tokens are not stored, and their nats mean nothing.
        """
        if not isinstance(self.gate, Gate):
            segment = segment._replace(next_tokens=None)
        lookup, state = self.look(state, segment, scratch)
        shares = self.log_shares(lookup.features_BTK, segment.nats_BT)
        return mixture(shares, lookup.log_p_BTF, lookup.num_visible_BT, segment.nats_BT), state

    def log_shares(self, features_BTK: Tensor | None, like: Tensor) -> Tensor:
        """Return the log share of the model and of each inverse temperature: (B, T, 1 + F) of a gate, else (2,)."""
        if not isinstance(self.gate, Gate):
            return like.new_tensor([1 - self.gate, self.gate]).log()
        assert features_BTK is not None
        return log_shares(self.gate.params, features_BTK)

    @torch.no_grad()
    def look(
        self, state: CacheState, segment: CacheInput, scratch: Scratch | None = None
    ) -> tuple[CacheLookup, CacheState]:
        """Return (each token's lookup, the state with the tokens written).

        Gate features are computed where ``segment.next_tokens`` is given.
        """
        scratch = Scratch() if scratch is None else scratch
        lookups = []
        for begin in range(0, segment.targets_BT.shape[1], LOOKED_UP_AT_ONCE):
            part = slice(begin, begin + LOOKED_UP_AT_ONCE)
            lookup, state = self._look(state, map_tensors(lambda t, part=part: t[:, part], segment), scratch)
            lookups.append(lookup)
        if len(lookups) == 1:
            return lookups[0], state
        return map_tensors(lambda *parts: torch.cat(parts, 1), *lookups), state

    def _look(self, state: CacheState, segment: CacheInput, scratch: Scratch) -> tuple[CacheLookup, CacheState]:
        features_BTH, targets_BT, mask_BT, nats_BT, next_tokens = segment
        (lanes, length), slots = targets_BT.shape, state.keys_BCH.shape[1]
        mask_BT = mask_BT > 0
        # How many tokens of the segment precede each, and in all.
        rank_BT, count_B = mask_BT.cumsum(1) - mask_BT.long(), mask_BT.sum(1)
        _write(state, features_BTH, targets_BT, mask_BT, rank_BT, count_B)
        before_BT1 = (state.written_B[:, None] + rank_BT)[..., None]
        # The index of the pair that each slot holds, counted from the first ever written; below 0 it holds none.
        newest_B1 = state.written_B[:, None] + length - 1
        number_B1C = (newest_B1 - (newest_B1 - torch.arange(slots, device=rank_BT.device)) % slots)[:, None]
        hidden_BTC = (number_B1C >= before_BT1) | (number_B1C < (before_BT1 - self.window).clamp(min=0))

        like_BTC = scratch.take("cache.likeness", (lanes, length, slots), features_BTH)
        torch.bmm(features_BTH, state.keys_BCH.transpose(1, 2), out=like_BTC)
        like_BTC.masked_fill_(hidden_BTC, -math.inf)
        top_BT1, best_BT1 = like_BTC.max(2, keepdim=True)
        num_visible_BT = before_BT1[..., 0].clamp(max=self.window)
        some_BT1 = num_visible_BT[..., None] > 0
        like_BTC.sub_(torch.where(some_BT1, top_BT1, 0.0))
        is_target_BTC = (state.tokens_BC[:, None] == targets_BT[..., None]).to(like_BTC.dtype)
        top_token_BT1 = state.tokens_BC.gather(1, best_BT1[..., 0])[..., None]
        is_top_BTC = None if next_tokens is None else (state.tokens_BC[:, None] == top_token_BT1).to(like_BTC.dtype)
        weight_BTC = scratch.take("cache.weights", (lanes, length, slots), features_BTH)
        product_BTC = scratch.take("cache.products", (lanes, length, slots), features_BTH)
        log_p, gate_features = [], []
        for inverse_temperature in self.inverse_temperatures:
            torch.mul(like_BTC, inverse_temperature, out=weight_BTC).exp_()
            log_total_BT = weight_BTC.sum(2).log()
            log_p.append(torch.mul(weight_BTC, is_target_BTC, out=product_BTC).sum(2).log() - log_total_BT)
            if is_top_BTC is not None:
                log_top_BT = torch.mul(weight_BTC, is_top_BTC, out=product_BTC).sum(2).log() - log_total_BT
                log_squares_BT = torch.mul(weight_BTC, weight_BTC, out=product_BTC).sum(2).log() - 2 * log_total_BT
                gate_features.append(torch.stack([-log_total_BT, log_squares_BT, log_top_BT], -1))
        log_p_BTF = torch.where(some_BT1, torch.stack(log_p, -1), -math.inf)
        features_BTK, gain_BF = None, state.gain_BF
        if next_tokens is not None:
            better_BTF = (log_p_BTF + nats_BT[..., None]).clamp(max=LARGEST_GAIN)
            gain_BTF = torch.logaddexp(better_BTF, torch.zeros_like(better_BTF)) - math.log(2)
            gain_BTF = torch.where(some_BT1, gain_BTF, 0.0)
            running_BTF, gain_BF = _running_average(state.gain_BF, gain_BTF, mask_BT, rank_BT, count_B)
            counts_BT2 = torch.stack([num_visible_BT, state.position_B[:, None] + rank_BT], -1)
            of_each = torch.stack([*torch.stack(gate_features, -1).unbind(2), running_BTF], 2).flatten(2)
            of_model_BT3, counts_BT2 = _of_model(next_tokens, top_token_BT1), counts_BT2.to(like_BTC.dtype).log1p()
            features_BTK = torch.cat([of_model_BT3, counts_BT2, of_each], 2)
            features_BTK = torch.where(some_BT1, features_BTK, 0.0)
            assert features_BTK.shape[2] == len(gate_feature_names(self.inverse_temperatures))
        counts = {"written_B": state.written_B + count_B, "position_B": state.position_B + count_B}
        return CacheLookup(log_p_BTF, num_visible_BT, features_BTK), state._replace(**counts, gain_BF=gain_BF)


def mixture(log_shares: Tensor, log_p_NF: Tensor, num_visible_N: Tensor, nats_N: Tensor) -> Tensor:
    """Return the nats of the mixture of these ``log_shares`` (..., 1 + F); the model's where the window is empty."""
    log_p = torch.cat([-nats_N[..., None], log_p_NF], -1)
    return torch.where(num_visible_N > 0, -torch.logsumexp(log_p + log_shares, -1), nats_N)


def _write(
    state: CacheState, features_BTH: Tensor, targets_BT: Tensor, mask_BT: Tensor, rank_BT: Tensor, count_B: Tensor
) -> None:
    """Write the segment's pairs into the slots after the last ones.

    Masked tokens go behind all of them, outside the window until they are overwritten.
    """
    lanes, length = targets_BT.shape
    behind_BT = count_B[:, None] + torch.arange(length, device=rank_BT.device) - rank_BT
    number_BT = state.written_B[:, None] + torch.where(mask_BT, rank_BT, behind_BT)
    lane_B1 = torch.arange(lanes, device=rank_BT.device)[:, None]
    slot_BT = number_BT % state.keys_BCH.shape[1]
    state.keys_BCH[lane_B1, slot_BT] = features_BTH
    state.tokens_BC[lane_B1, slot_BT] = targets_BT


def _running_average(
    before_BF: Tensor, gain_BTF: Tensor, mask_BT: Tensor, rank_BT: Tensor, count_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (the average before each token, BTF; after the last, BF), given the one before the segment."""
    # S = T + 1 points at which the average is computed.
    at_BS1 = torch.cat([rank_BT, count_B[:, None]], 1)[..., None]
    since_BST = at_BS1 - 1 - rank_BT[:, None]
    counts_BST = (since_BST >= 0) & mask_BT[:, None]
    share_BST = torch.where(counts_BST, (1 - GAIN_DECAY) * GAIN_DECAY ** since_BST.to(gain_BTF.dtype), 0.0)
    running_BSF = GAIN_DECAY ** at_BS1.to(gain_BTF.dtype) * before_BF[:, None] + share_BST @ gain_BTF
    return running_BSF[:, :-1], running_BSF[:, -1]


def _of_model(next_tokens: NextTokenDistribution, top_token_BT1: Tensor) -> Tensor:
    """Return the model's gate features (B, T, 3): its confidence, and its probability of the cache's top token."""
    log_total_BT1 = next_tokens.total_BT1.log()
    spread_BT1 = 2 * torch.linalg.vector_norm(next_tokens.scaled_BTV, dim=2, keepdim=True).log()
    p_BT1 = next_tokens.scaled_BTV.gather(2, top_token_BT1) / next_tokens.total_BT1
    return torch.cat([-log_total_BT1, spread_BT1 - 2 * log_total_BT1, p_BT1.clamp(min=SMALLEST_P).log()], 2)
