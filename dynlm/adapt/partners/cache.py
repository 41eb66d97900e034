"""The episodic cache: what was read lately, looked up by likeness (Grave, Joulin & Usunier 2017, arXiv 1612.04426).

    p_cache(w) = sum over pairs (h_i, x_i) in sight with x_i = w of exp(flatness h_t . h_i) / sum over all of them
    p(w) = share_0 p_model(w) + sum over flatnesses f of share_f p_cache,f(w)

h_i are the LSTM's features and x_i the token that followed them. In sight are the ``window`` pairs before t, those of
its own segment too; nothing at or after it. Shares are fixed or a gate's (``cache_gate``). It is a partner of every
rule: what a rule learns from stays the model's own loss.

Legend: B lanes, T tokens of a segment, C slots, H width of the features, F flatnesses, K pieces of evidence,
V vocabulary. ``cache_reference.naive_read`` is the reference.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.partners.cache_gate import Gate, evidence_names
from dynlm.models.scratch import Scratch

# So many tokens are written into the slots before they are looked at: there are as many slots more than the window.
_AT_A_TIME = 64
LATELY = 0.98
"""Decay, a token, of the running average of each flatness's gain."""
LARGEST_GAIN = 20.0
SMALLEST_P = 1e-7
"""Of the model, as evidence."""


class NextTokenDistribution(NamedTuple):
    """The model's distribution, before the target is known: p = scaled / total, the likeliest token scaled to 1."""

    scaled_BTV: Tensor
    total_BT1: Tensor


class CacheState(NamedTuple):
    """What B lanes' caches hold: a ring of pairs, how many were ever written, tokens since the article's start, and
    how much each flatness would have gained lately (nats, of a mixture in equal parts with the model; for a gate)."""

    keys_BCH: Tensor
    tokens_BC: Tensor
    written_B: Tensor
    position_B: Tensor
    gain_BF: Tensor

    def copy(self) -> CacheState:
        """A state that further reading of this one leaves as it is."""
        return CacheState(*(tensor.clone() for tensor in self))

    def is_sound(self, vocabulary: int) -> bool:
        """Whether a state from outside can be read with: its tokens are of the vocabulary, and it counts from 0."""
        tokens = (self.tokens_BC >= 0) & (self.tokens_BC < vocabulary)
        return bool(tokens.all() and (self.written_B >= 0).all() and (self.position_B >= 0).all())

    def of_lanes(self, lanes: slice) -> CacheState:
        """Views of what ``lanes`` hold."""
        return CacheState(*(tensor[lanes] for tensor in self))


def side_by_side(whole: CacheState, parts: Sequence[CacheState]) -> CacheState:
    """The state of all lanes after parts of ``whole``, some lanes after others, were read: pairs are in place."""
    rest = (torch.cat(tensors) for tensors in zip(*(part[2:] for part in parts), strict=True))
    return CacheState(whole.keys_BCH, whole.tokens_BC, *rest)


class CacheLookup(NamedTuple):
    """What a look finds: log p of each target by each flatness (-inf: not in sight), how many pairs were in sight,
    and the evidence, where a gate asks for it."""

    log_p_BTF: Tensor
    sight_BT: Tensor
    evidence_BTK: Tensor | None


@dataclass(frozen=True)
class Cache:
    """A cache's constants: ``window`` in tokens, ``flatness`` of each component, and ``gate``: the share of the one
    component, or what decides on all shares."""

    window: int
    flatness: tuple[float, ...]
    gate: float | Gate

    def fresh(self, lanes: int, width: int, like: Tensor) -> CacheState:
        """Empty caches for features of ``width``."""
        slots = self.window + _AT_A_TIME
        none_B = like.new_zeros(lanes, dtype=torch.int64)
        return CacheState(
            like.new_zeros(lanes, slots, width),
            like.new_zeros(lanes, slots, dtype=torch.int64),
            none_B,
            none_B,
            like.new_zeros(lanes, len(self.flatness)),
        )

    def to(self, device: torch.device | str) -> Cache:
        """The same on a device."""
        return dataclasses.replace(self, gate=self.gate.to(device)) if isinstance(self.gate, Gate) else self

    def begin_articles(self, state: CacheState, starts_B: Tensor, empty: bool) -> CacheState:
        """Articles begin in the lanes of ``starts_B`` (bool), with the cache ``empty`` or as it is."""
        state = state._replace(position_B=state.position_B.masked_fill(starts_B, 0))
        if not empty:
            return state
        # What stays in the slots is out of sight, whatever it is.
        written_B, gain_BF = state.written_B.masked_fill(starts_B, 0), state.gain_BF.masked_fill(starts_B[:, None], 0)
        return state._replace(written_B=written_B, gain_BF=gain_BF)

    def read(
        self,
        state: CacheState,
        features_BTH: Tensor,
        targets_BT: Tensor,
        mask_BT: Tensor,
        nats_BT: Tensor,
        told: NextTokenDistribution | None = None,
        scratch: Scratch | None = None,
    ) -> tuple[Tensor, CacheState]:
        """(nats of the mixture, the next state), given the model's ``nats_BT`` and, for a gate, what it ``told``.

        ``state`` is used up: its pairs are written over. Where nothing is in sight the nats are the model's, to the
        bit. Masked tokens are not stored, and their nats mean nothing.
        """
        told = told if isinstance(self.gate, Gate) else None
        seen, state = self.look(state, features_BTH, targets_BT, mask_BT, nats_BT, told, scratch)
        return self.mixed(seen, nats_BT), state

    def mixed(self, seen: CacheLookup, nats_BT: Tensor) -> Tensor:
        """Nats of each target under the mixture."""
        if isinstance(self.gate, Gate):
            assert seen.evidence_BTK is not None
            log_shares = self.gate.log_shares(seen.evidence_BTK)
        else:
            log_shares = nats_BT.new_tensor([1 - self.gate, self.gate]).log()
        return mixture(log_shares, seen.log_p_BTF, seen.sight_BT, nats_BT)

    @torch.no_grad()
    def look(
        self,
        state: CacheState,
        features_BTH: Tensor,
        targets_BT: Tensor,
        mask_BT: Tensor,
        nats_BT: Tensor,
        told: NextTokenDistribution | None = None,
        scratch: Scratch | None = None,
    ) -> tuple[CacheLookup, CacheState]:
        """(what each token's look finds, the state with the tokens written down); arguments are those of ``read``.

        Evidence is gathered where ``told`` is given.
        """
        scratch = Scratch() if scratch is None else scratch
        looks = []
        for begin in range(0, targets_BT.shape[1], _AT_A_TIME):
            part = slice(begin, begin + _AT_A_TIME)
            seen, state = self._look(
                state,
                features_BTH[:, part],
                targets_BT[:, part],
                mask_BT[:, part],
                nats_BT[:, part],
                told and NextTokenDistribution(*(of_all[:, part] for of_all in told)),
                scratch,
            )
            looks.append(seen)
        if len(looks) == 1:
            return looks[0], state
        evidence = [seen.evidence_BTK for seen in looks if seen.evidence_BTK is not None]
        return CacheLookup(
            torch.cat([seen.log_p_BTF for seen in looks], 1),
            torch.cat([seen.sight_BT for seen in looks], 1),
            torch.cat(evidence, 1) if evidence else None,
        ), state

    def _look(
        self,
        state: CacheState,
        features_BTH: Tensor,
        targets_BT: Tensor,
        mask_BT: Tensor,
        nats_BT: Tensor,
        told: NextTokenDistribution | None,
        scratch: Scratch,
    ) -> tuple[CacheLookup, CacheState]:
        (lanes, length), slots = targets_BT.shape, state.keys_BCH.shape[1]
        mask_BT = mask_BT > 0
        # How many tokens of the segment stand before each, and in all.
        rank_BT, count_B = mask_BT.cumsum(1) - mask_BT.long(), mask_BT.sum(1)
        _write(state, features_BTH, targets_BT, mask_BT, rank_BT, count_B)
        before_BT1 = (state.written_B[:, None] + rank_BT)[..., None]
        # The number of the pair that each slot holds, counted from the first; below 0 it holds none.
        newest_B1 = state.written_B[:, None] + length - 1
        number_B1C = (newest_B1 - (newest_B1 - torch.arange(slots, device=rank_BT.device)) % slots)[:, None]
        hidden_BTC = (number_B1C >= before_BT1) | (number_B1C < (before_BT1 - self.window).clamp(min=0))

        like_BTC = scratch.take("cache.likeness", (lanes, length, slots), features_BTH)
        torch.bmm(features_BTH, state.keys_BCH.transpose(1, 2), out=like_BTC)
        like_BTC.masked_fill_(hidden_BTC, -math.inf)
        top_BT1, best_BT1 = like_BTC.max(2, keepdim=True)
        sight_BT = before_BT1[..., 0].clamp(max=self.window)
        some_BT1 = sight_BT[..., None] > 0
        like_BTC.sub_(torch.where(some_BT1, top_BT1, 0.0))
        is_target_BTC = (state.tokens_BC[:, None] == targets_BT[..., None]).to(like_BTC.dtype)
        likeliest_BT1 = state.tokens_BC.gather(1, best_BT1[..., 0])[..., None]
        is_likeliest_BTC = None if told is None else (state.tokens_BC[:, None] == likeliest_BT1).to(like_BTC.dtype)
        weight_BTC = scratch.take("cache.weights", (lanes, length, slots), features_BTH)
        product_BTC = scratch.take("cache.products", (lanes, length, slots), features_BTH)
        log_p, evidence = [], []
        for flatness in self.flatness:
            torch.mul(like_BTC, flatness, out=weight_BTC).exp_()
            log_total_BT = weight_BTC.sum(2).log()
            log_p.append(torch.mul(weight_BTC, is_target_BTC, out=product_BTC).sum(2).log() - log_total_BT)
            if is_likeliest_BTC is not None:
                of_likeliest_BT = torch.mul(weight_BTC, is_likeliest_BTC, out=product_BTC).sum(2)
                squares_BT = torch.mul(weight_BTC, weight_BTC, out=product_BTC).sum(2)
                evidence.append(
                    torch.stack(
                        [-log_total_BT, squares_BT.log() - 2 * log_total_BT, of_likeliest_BT.log() - log_total_BT], -1
                    )
                )
        log_p_BTF = torch.where(some_BT1, torch.stack(log_p, -1), -math.inf)
        evidence_BTK, gain_BF = None, state.gain_BF
        if told is not None:
            running_BTF, gain_BF = _gains(state, log_p_BTF, some_BT1, nats_BT, mask_BT, rank_BT, count_B)
            place_BT2 = torch.stack([sight_BT, state.position_B[:, None] + rank_BT], -1).to(like_BTC.dtype).log1p()
            of_each = torch.stack([*torch.stack(evidence, -1).unbind(2), running_BTF], 2).flatten(2)
            evidence_BTK = torch.cat([_of_model(told, likeliest_BT1), place_BT2, of_each], 2)
            evidence_BTK = torch.where(some_BT1, evidence_BTK, 0.0)
            assert evidence_BTK.shape[2] == len(evidence_names(self.flatness))
        after = state._replace(
            written_B=state.written_B + count_B, position_B=state.position_B + count_B, gain_BF=gain_BF
        )
        return CacheLookup(log_p_BTF, sight_BT, evidence_BTK), after


def mixture(log_shares: Tensor, log_p_NF: Tensor, sight_N: Tensor, nats_N: Tensor) -> Tensor:
    """Nats of the mixture whose ``log_shares`` (..., 1 + F) are; the model's where nothing is in sight."""
    log_p = torch.cat([-nats_N[..., None], log_p_NF], -1)
    return torch.where(sight_N > 0, -torch.logsumexp(log_p + log_shares, -1), nats_N)


def _write(
    state: CacheState, features_BTH: Tensor, targets_BT: Tensor, mask_BT: Tensor, rank_BT: Tensor, count_B: Tensor
) -> None:
    """Put the segment's pairs into the slots after the last ones.

    What is masked goes behind all of them, where nothing is in sight before it is written over.
    """
    lanes, length = targets_BT.shape
    behind_BT = count_B[:, None] + torch.arange(length, device=rank_BT.device) - rank_BT
    number_BT = state.written_B[:, None] + torch.where(mask_BT, rank_BT, behind_BT)
    lane_B1 = torch.arange(lanes, device=rank_BT.device)[:, None]
    slot_BT = number_BT % state.keys_BCH.shape[1]
    state.keys_BCH[lane_B1, slot_BT] = features_BTH
    state.tokens_BC[lane_B1, slot_BT] = targets_BT


def _gains(
    state: CacheState,
    log_p_BTF: Tensor,
    some_BT1: Tensor,
    nats_BT: Tensor,
    mask_BT: Tensor,
    rank_BT: Tensor,
    count_B: Tensor,
) -> tuple[Tensor, Tensor]:
    """(the running average before each token, BTF; after the last, BF)."""
    better_BTF = (log_p_BTF + nats_BT[..., None]).clamp(max=LARGEST_GAIN)
    gain_BTF = torch.where(some_BT1, torch.logaddexp(better_BTF, torch.zeros_like(better_BTF)) - math.log(2), 0.0)
    # S = T + 1 places at which the average is wanted.
    at_BS1 = torch.cat([rank_BT, count_B[:, None]], 1)[..., None]
    since_BST = at_BS1 - 1 - rank_BT[:, None]
    counts_BST = (since_BST >= 0) & mask_BT[:, None]
    share_BST = torch.where(counts_BST, (1 - LATELY) * LATELY ** since_BST.to(gain_BTF.dtype), 0.0)
    running_BSF = LATELY ** at_BS1.to(gain_BTF.dtype) * state.gain_BF[:, None] + share_BST @ gain_BTF
    return running_BSF[:, :-1], running_BSF[:, -1]


def _of_model(told: NextTokenDistribution, likeliest_BT1: Tensor) -> Tensor:
    """The model's part of the evidence, (B, T, 3): how sure it is, and what it holds of the cache's likeliest token."""
    log_total_BT1 = told.total_BT1.log()
    spread_BT1 = 2 * torch.linalg.vector_norm(told.scaled_BTV, dim=2, keepdim=True).log()
    p_BT1 = told.scaled_BTV.gather(2, likeliest_BT1) / told.total_BT1
    return torch.cat([-log_total_BT1, spread_BT1 - 2 * log_total_BT1, p_BT1.clamp(min=SMALLEST_P).log()], 2)
