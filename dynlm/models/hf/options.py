"""Options of pretrained transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynlm.errors import UserError
from dynlm.models.options import ModelOptions
from dynlm.runtime.validation import bounded


@dataclass
class HFOptions(ModelOptions):
    """Where a pretrained model comes from, and how many earlier tokens it attends to."""

    COMMON = "context stride refresh"

    architecture: str = ""
    """The configuration of the model, as JSON; `dynlm adopt` sets it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the static weights and of the products; what moves is float32."""
    context: int = bounded(1024, 2, 1 << 20)
    """Most tokens attended to, those of the segment included."""
    stride: int = bounded(512, 1, 1 << 20)
    """Tokens that are dropped where the context is full; the rest of it is computed anew, by the weights of then. As
    many as the context: disjoint windows."""
    refresh: int = bounded(0, 0, 1 << 20)
    """Compute keys and values anew once they are so many tokens old; 0: only where the context is full."""
    attention: Literal["segment", "sdpa", "eager"] = "segment"
    """Implementation of attention. segment: dynlm's own on a CPU, sdpa on a GPU; sdpa: PyTorch's fused kernels; eager:
    that of the model's source, which has second derivatives."""
    checkpointing: bool = False
    """Gradient checkpointing: the backward pass computes each layer's activations again, for less memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride > self.context:
            raise UserError(
                f"model.stride is {self.stride}, more than model.context {self.context}",
                do="choose at most as many, which makes disjoint windows",
            )
