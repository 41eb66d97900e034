"""No-regret reading: the static model and a rule that learns, mixed token by token by fixed share.

Legend: B lanes, T tokens of a segment, 2 experts: the static model first, then the rule.

Fixed share (Herbster & Warmuth 1998, "Tracking the best expert"), in the variant in which every expert gets a share: a
token of experts' probabilities p_k is predicted by sum_k w_k p_k, and then

    v_k = w_k p_k / sum_j w_j p_j,    w_k <- (1 - a) v_k + a / 2,    a the share.

This is exact Bayesian prediction where the better expert is drawn evenly at first and changes between two tokens with
probability a / 2. So, for each sequence of experts that changes m times in T tokens, and whatever the text is,

    nats of the mixture <= nats of the sequence + log 2 + m log(2 / a) - (T - 1 - m) log(1 - a / 2),

and with m = 0 the mixture is worse than the static model by at most log 2 - (T - 1) log(1 - a / 2), about a / 2 nats a
token. Where the weights start afresh with each article (``reset`` "article"), each restart may cost another log 2 nats.
An expert whose loss is not finite, since its weights diverged, gives probability zero: the other one is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.types import State

EXPERTS = 2


class MixtureState(NamedTuple):
    """What a mixture carries from segment to segment.

    ``log_weights_B2`` (float64): those that the next token is predicted with. ``state``: the static model's own.
    ``experts_BT2``: each expert's losses of the last segment, for reports; reading does not need it.
    """

    log_weights_B2: Tensor
    state: State
    experts_BT2: Tensor | None = None

    def start_articles(self, starts_B: Tensor, fresh: bool) -> MixtureState:
        """Start the weights afresh in the lanes of ``starts_B`` (bool), if ``fresh``."""
        if not fresh:
            return self
        return self._replace(log_weights_B2=self.log_weights_B2.masked_fill(starts_B[:, None], -math.log(EXPERTS)))

    def log_mixture(self, static_BTV: Tensor, rule_BTV: Tensor) -> Tensor:
        """Return log p_BTV of every next token, from both experts' logits and the current weights."""
        log_p_BTV2 = torch.stack([static_BTV.log_softmax(-1), rule_BTV.log_softmax(-1)], 3)
        log_p_BTV2 = log_p_BTV2.masked_fill(log_p_BTV2.isnan(), -math.inf)
        return (log_p_BTV2 + self.log_weights_B2[:, None, None].to(log_p_BTV2)).logsumexp(3)


@dataclass(frozen=True)
class FixedShareMixture:
    """How the weights move from token to token; ``share`` is a, above 0 and at most 1."""

    share: float = 1e-3

    def fresh(self, state: State, lanes: int, like: Tensor) -> MixtureState:
        """Return equal weights, beside the static model's initial ``state``."""
        return MixtureState(like.new_full((lanes, EXPERTS), -math.log(EXPERTS), dtype=torch.float64), state)

    def allowance(self, tokens: int, switches: int = 0, restarts: int = 0) -> float:
        """Return the nats by which the mixture is at most worse, in all, than a sequence of experts with ``switches``.

        ``restarts``: how often the weights started afresh after the beginning; under ``reset`` "article" that is once
        for each article but the first. A change of experts at a restart is no switch.
        """
        stays = max(0, tokens - 1 - restarts - switches)
        begun = (1 + restarts) * math.log(EXPERTS)
        return begun + switches * math.log(2 / self.share) - stays * math.log1p(-self.share / 2)

    def mix(
        self, mixture: MixtureState, static_BT: Tensor, state: State, rule_BT: Tensor, mask_BT: Tensor
    ) -> tuple[Tensor, MixtureState]:
        """Return (the mixture's nats_BT, its next state); the static model ends the segment in ``state``."""
        experts_BT2 = torch.stack([static_BT, rule_BT], 2)
        nats_BT, log_weights_B2 = fixed_share(self.share, mixture.log_weights_B2, experts_BT2, mask_BT)
        return nats_BT, MixtureState(log_weights_B2, state, experts_BT2)


@torch.no_grad()
def fixed_share(share: float, log_weights_B2: Tensor, experts_BT2: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return (the mixture's nats_BT, the next log_weights_B2); weights do not move on tokens whose mask is 0.

    A token's weights depend on earlier tokens alone.
    """
    nats_BT2 = experts_BT2.double().nan_to_num(nan=math.inf, posinf=math.inf)
    # Where neither expert gave the token a probability the weights stay.
    moves_BT1 = ((mask_BT > 0) & nats_BT2.isfinite().any(2))[..., None]
    log_stay = math.log1p(-share) if share < 1 else -math.inf
    log_share_11 = nats_BT2.new_full((1, 1), math.log(share / EXPERTS))
    log_w_B2, mixed = log_weights_B2, []
    for nats_B2, moves_B1 in zip(nats_BT2.unbind(1), moves_BT1.unbind(1), strict=True):
        joint_B2 = log_w_B2 - nats_B2
        log_p_B1 = joint_B2.logsumexp(1, keepdim=True)
        moved_B2 = torch.logaddexp(joint_B2 - log_p_B1 + log_stay, log_share_11)
        log_w_B2 = torch.where(moves_B1, moved_B2, log_w_B2)
        mixed.append(log_p_B1)
    # The loss of experts that agree is theirs, bit for bit: rates of zero then give the static model's losses too.
    static_BT, rule_BT = experts_BT2.unbind(2)
    mixed_BT = torch.cat(mixed, 1).neg_().to(experts_BT2.dtype)
    return torch.where(static_BT == rule_BT, static_BT, mixed_BT), log_w_B2
