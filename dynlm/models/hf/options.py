"""Options of pretrained transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dynlm.errors import UserError
from dynlm.models.options import ModelOptions
from dynlm.runtime.validation import bounded


def num_positions(config: Any) -> int | None:
    """Return the most tokens that a model of this configuration attends to; None where there is no limit."""
    found = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


@dataclass
class HFOptions(ModelOptions):
    """Where a pretrained model comes from, and how many earlier tokens it attends to."""

    COMMON = "context stride refresh"
    READING = "context stride refresh"
    MAKER = "dynlm adopt"

    architecture: str = ""
    """The configuration of the model, as JSON; `dynlm adopt` sets it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the static weights and of the products; what moves is float32."""
    context: int = bounded(1024, 2, 1 << 20)
    """Most tokens attended to, those of the segment included."""
    stride: int = bounded(512, 0, 1 << 20)
    """Tokens that are dropped where the context is full; the rest of it is computed anew, by the weights of then. As
    many as the context, or 0: disjoint windows."""
    refresh: int = bounded(0, 0, 1 << 20)
    """Compute keys and values anew once they are so many tokens old; 0: only where the context is full."""
    attention: Literal["segment", "sdpa", "eager"] = "segment"
    """Implementation of attention. segment: dynlm's own on a CPU, sdpa on a GPU, and eager for soft caps and sinks,
    which those lack (Gemma 2, gpt-oss); sdpa: PyTorch's fused kernels; eager: that of the model's source, which has
    second derivatives."""
    checkpointing: bool = False
    """Gradient checkpointing: the backward pass computes each layer's activations again, for less memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stride = self.stride or self.context
        if self.stride > self.context:
            raise UserError(
                f"model.stride is {self.stride}, more than model.context {self.context}",
                do="choose at most as many, which makes disjoint windows",
            )

    def statement(self) -> str:
        text = f"attention over at most {self.context} tokens; where the next segment does not fit, "
        if self.stride == self.context:
            text += "all earlier ones are dropped, and its first token is predicted from the one before it alone"
        else:
            text += f"{self.stride} are dropped and the others read again"
        return f"{text}; keys and values are computed anew every {self.refresh} tokens" if self.refresh else text
