"""dynlm: language models whose weights change while they read.

``dynlm.load(path)`` gives a trained run as an object that reads, generates and remembers, and
``dynlm.attach(model, tokenizer)`` a model of ``transformers`` that is in memory already (``dynlm.api``).
``dynlm.compare(a, b)`` compares two readings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynlm.api import DynamicLM, attach, load
    from dynlm.report.own_text import compare

__all__ = ["DynamicLM", "attach", "compare", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Only who asks for them waits for torch.
    if name == "compare":
        from dynlm.report.own_text import compare

        return compare
    if name in __all__:
        from dynlm import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
