"""``fixed_share`` on plain numbers: the reference."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dynlm.adapt.partners.mixture import EXPERTS


def naive_fixed_share(
    share: float, log_weights_B2: Tensor, experts_BT2: Tensor, mask_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Run ``fixed_share`` a lane and a token at a time."""
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
