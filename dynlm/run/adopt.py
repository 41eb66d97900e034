"""Make a run of a pretrained model: level 1 is that model, as it is."""

from __future__ import annotations

import dataclasses
from typing import Any

from dynlm.adapt.options import MemoryOptions
from dynlm.errors import UserError
from dynlm.models.hf.options import HFOptions
from dynlm.models.registry import build_model
from dynlm.run.folder import log_line, save_config, save_model
from dynlm.run.options import ELSEWHERE, RunOptions
from dynlm.run.pretrained import SEGMENT, default_segment, default_window, dtype_of, trained_model
from dynlm.run.provenance import made_with, record_sitting
from dynlm.runtime.files import exclusive


def adopt(config: Any, source: str, dtype: str = "auto") -> dict[str, Any]:
    """Copy the pretrained model at ``source`` (see ``load_pretrained``) into the run's folder.

    ``config`` is a dataclass of all sections; its ``model`` are ``HFOptions``. The default context is that of a model
    with fewer positions where it has fewer, and the default segment fits it. Returns what the model's card says. Raises
    UserError for a source that cannot be loaded or read in segments, and for a run folder that holds a model.
    """
    from dynlm.models.hf.load import hub_revision, load_pretrained

    run: RunOptions = config.run
    with exclusive(run.path, "this run"):
        if (run.path / "model.json").exists():
            raise UserError("this run has a model", run.path, ELSEWHERE)
        found = load_pretrained(source, dtype)
        options = config.model.replace(
            architecture=found.architecture, dtype=dtype_of(found), **_window(config.model, found.positions)
        )
        revision = hub_revision(source)
        about = {"adopted_from": source, **({} if revision is None else {"revision": revision})}
        model = build_model(options, found.vocab_size)
        memory = _memory(config.memory, options.context, default_segment(model))
        trained = trained_model(found, model, about)
        record_sitting(run.path, {}, made_with("cpu"))
        trained.tokenizer.save(run.path / "tokenizer")
        save_config(
            run.path, dataclasses.replace(config, model=options, memory=memory, tokenizer=trained.tokenizer.config)
        )
        save_model(run.path, trained.model, trained.params, trained.tokenizer, about)
        parameters = trained.card["parameters"]
        log_line(run.path, event="adopted", parameters=parameters, **about)
    said = {"parameters": parameters, "vocabulary": found.vocab_size, "dtype": options.dtype}
    return {**about, "run": str(run.path), **said}


def _memory(memory: MemoryOptions, context: int, default: int) -> MemoryOptions:
    """Return the options, a segment that is not given as ``default``. Raises UserError for one over ``context``."""
    if memory.segment == SEGMENT:
        return memory.replace(segment=default)
    if memory.segment > context:
        what = f"memory.segment is {memory.segment}, more than model.context {context}"
        raise UserError(what, do="choose a shorter one")
    return memory


def _window(model: HFOptions, positions: int | None) -> dict[str, int]:
    """Return context and stride, those of a model with so many positions where both are the default ones."""
    window = {"context": model.context, "stride": model.stride}
    return default_window(None, positions) if window == default_window(None, None) else window
