"""dynlm: language models whose weights change while they read.

``dynlm.load(path)`` gives a trained run as an object that reads, generates and remembers, and
``dynlm.attach(model, tokenizer)`` a model of ``transformers`` that is in memory already (``dynlm.api``).
``dynlm.compare(a, b)`` compares two readings, and ``dynlm.load_study(run)`` gives a study's table as a frame of pandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynlm.api import DynamicLM, attach, load
    from dynlm.report.own_text import compare
    from dynlm.study.frame import load_study

__all__ = ["DynamicLM", "attach", "compare", "load", "load_study"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Only who asks for them waits for torch.
    if name == "compare":
        from dynlm.report.own_text import compare

        return compare
    if name == "load_study":
        from dynlm.study.frame import load_study

        return load_study
    if name in __all__:
        from dynlm import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
