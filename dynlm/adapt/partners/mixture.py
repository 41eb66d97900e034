"""Reading without regret: level 1 and a rule that learns, mixed token by token.

Legend: B lanes, T tokens of a segment, 2 experts: level 1 first, then the rule.

Fixed share (Herbster & Warmuth 1998, "Tracking the best expert"), in the variant that shares with all experts, the
giver too: a token of experts' probabilities p_k is predicted by sum_k w_k p_k, and then

    v_k = w_k p_k / sum_j w_j p_j,    w_k <- (1 - a) v_k + a / 2,    a the share.

This is exact Bayesian prediction where the better expert is drawn evenly at first and changes between two tokens with
probability a / 2. So, for each sequence of experts that changes m times in T tokens, and whatever the text is,

    nats of the mixture <= nats of the sequence + log 2 + m log(2 / a) - (T - 1 - m) log(1 - a / 2),

and with m = 0 the mixture is worse than level 1 by at most log 2 - (T - 1) log(1 - a / 2): about a / 2 nats a token.
Where the weights start afresh with each article (``reset`` "article"), each article is such a text of its own, and each
restart may cost another log 2 nats.
An expert that gives no number, since its weights diverged, has given probability zero: the other one is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.models.lstm.model import Hidden, restarted

EXPERTS = 2


class MixtureState(NamedTuple):
    """What a mixture carries from segment to segment.

    ``log_weights_B2`` (float64): those that the next token is predicted with. ``hidden``: level 1's own LSTM state.
    ``experts_BT2``: what each expert lost on the last segment's tokens, to be told; reading does not need it.
    """

    log_weights_B2: Tensor
    hidden: Hidden
    experts_BT2: Tensor | None = None

    def copy(self) -> MixtureState:
        """A hedge that shares no tensor with this one's state."""
        return self._replace(
            log_weights_B2=self.log_weights_B2.clone(), hidden=tuple((h.clone(), c.clone()) for h, c in self.hidden)
        )

    def begin_articles(self, starts_B: Tensor, afresh: bool) -> MixtureState:
        """Level 1's state starts afresh in the lanes of ``starts_B``; with ``afresh`` the weights do so too."""
        log_weights_B2 = self.log_weights_B2
        if afresh:
            log_weights_B2 = log_weights_B2.masked_fill(starts_B[:, None], -math.log(EXPERTS))
        return self._replace(log_weights_B2=log_weights_B2, hidden=restarted(self.hidden, starts_B))

    def log_mixture(self, level_1_BTV: Tensor, rule_BTV: Tensor) -> Tensor:
        """log p_BTV of every next token, from both experts' logits and the weights as they stand."""
        log_p_BTV2 = torch.stack([level_1_BTV.log_softmax(-1), rule_BTV.log_softmax(-1)], 3)
        log_p_BTV2 = log_p_BTV2.masked_fill(log_p_BTV2.isnan(), -math.inf)
        return (log_p_BTV2 + self.log_weights_B2[:, None, None].to(log_p_BTV2)).logsumexp(3)


@dataclass(frozen=True)
class FixedShareMixture:
    """How weights move from token to token; ``share`` is a, above 0 and up to 1."""

    share: float = 1e-3

    def fresh(self, hidden: Hidden) -> MixtureState:
        """Before anything is read: even weights, in as many lanes as ``hidden`` (level 1's) has."""
        h_BH = hidden[0][0]
        log_weights_B2 = h_BH.new_full((len(h_BH), EXPERTS), -math.log(EXPERTS), dtype=torch.float64)
        return MixtureState(log_weights_B2, hidden)

    def allowance(self, tokens: int, switches: int = 0, restarts: int = 0) -> float:
        """Nats by which the mixture may at most be worse, in all, than a sequence of experts with ``switches``.

        ``restarts``: how often the weights started afresh after the beginning; under ``reset`` "article" that is once
        for each article but the first. A change of experts at a restart is no switch.
        """
        stays = max(0, tokens - 1 - restarts - switches)
        begun = (1 + restarts) * math.log(EXPERTS)
        return begun + switches * math.log(2 / self.share) - stays * math.log1p(-self.share / 2)

    def mix(
        self,
        hedge: MixtureState,
        level_1_BT: Tensor,
        hidden: Hidden,
        rule_BT: Tensor,
        mask_BT: Tensor,
        reference: bool = False,
    ) -> tuple[Tensor, MixtureState]:
        """(the mixture's nats_BT, the next hedge) from what level 1, which ends in ``hidden``, and the rule lost."""
        experts_BT2 = torch.stack([level_1_BT, rule_BT], 2)
        mixed = naive_fixed_share if reference else fixed_share
        nats_BT, log_weights_B2 = mixed(self.share, hedge.log_weights_B2, experts_BT2, mask_BT)
        return nats_BT, MixtureState(log_weights_B2, hidden, experts_BT2)


@torch.no_grad()
def fixed_share(share: float, log_weights_B2: Tensor, experts_BT2: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(the mixture's nats_BT, the next log_weights_B2); weights do not move on tokens whose mask is 0.

    A token's weights know the tokens before it, and nothing else.
    """
    nats_BT2 = experts_BT2.double().nan_to_num(nan=math.inf, posinf=math.inf)
    # Where neither expert gave the token a probability there is nothing to weigh them by.
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
    # Experts that agree are what they say, bit for bit: rates of zero then give level 1's losses here too.
    level_1_BT, rule_BT = experts_BT2.unbind(2)
    mixed_BT = torch.cat(mixed, 1).neg_().to(experts_BT2.dtype)
    return torch.where(level_1_BT == rule_BT, level_1_BT, mixed_BT), log_w_B2


def naive_fixed_share(
    share: float, log_weights_B2: Tensor, experts_BT2: Tensor, mask_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """``fixed_share`` on plain numbers, a lane and a token at a time: the reference."""
    mixed, after = [], []
    for log_w, experts_T2, mask_T in zip(log_weights_B2.tolist(), experts_BT2.tolist(), mask_BT.tolist(), strict=True):
        nats_T = []
        for experts, mask in zip(experts_T2, mask_T, strict=True):
            joint = [-math.inf if math.isnan(nats) else w - nats for w, nats in zip(log_w, experts, strict=True)]
            # Of probabilities too small for a number only the ratios count.
            top = max(joint)
            relative = [0.0 if top == -math.inf else math.exp(j - top) for j in joint]
            nats_T.append(math.inf if top == -math.inf else -top - math.log(sum(relative)))
            if mask and top > -math.inf:
                log_w = [math.log((1 - share) * r / sum(relative) + share / EXPERTS) for r in relative]
        mixed.append(nats_T)
        after.append(log_w)
    return torch.tensor(mixed, dtype=torch.float64).to(experts_BT2), torch.tensor(after, dtype=torch.float64).to(
        log_weights_B2
    )
