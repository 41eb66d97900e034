"""Make a run of a pretrained model: level 1 is that model, as it is."""

from __future__ import annotations

import dataclasses
from typing import Any

from dynlm.data.options import TokenizerOptions
from dynlm.errors import UserError
from dynlm.models.registry import build_model
from dynlm.run.folder import log_line, save_config, save_model
from dynlm.run.options import RunOptions
from dynlm.run.provenance import made_with, record_sitting
from dynlm.runtime.files import exclusive


def adopt(config: Any, source: str, dtype: str = "auto") -> dict[str, Any]:
    """Copy the pretrained model at ``source`` (see ``load_pretrained``) into the run's folder.

    ``config`` is a dataclass of all sections; its ``model`` are ``HFOptions``. Returns what the model's card says.
    Raises UserError for a source that cannot be loaded, and for a run folder that holds a model.
    """
    from dynlm.data.tokenizers.pretrained import PretrainedTokenizer
    from dynlm.models.hf.load import hub_revision, load_pretrained

    run: RunOptions = config.run
    with exclusive(run.path, "this run"):
        if (run.path / "model.json").exists():
            raise UserError("this run has a model", run.path, "choose another --run.name or remove the folder")
        found = load_pretrained(source, dtype)
        kind = str(next(iter(found.params.values())).dtype).removeprefix("torch.")
        options = config.model.replace(architecture=found.architecture, dtype=kind)
        model = build_model(options, found.vocab_size)
        tokens = TokenizerOptions(kind="pretrained", vocab_size=model.vocab_size)
        tokenizer = PretrainedTokenizer(tokens, found.tokenizer, found.start)
        record_sitting(run.path, {}, made_with("cpu"))
        tokenizer.save(run.path / "tokenizer")
        save_config(run.path, dataclasses.replace(config, model=options, tokenizer=tokens))
        revision = hub_revision(source)
        about = {"adopted_from": source, **({} if revision is None else {"revision": revision})}
        save_model(run.path, model, found.params, tokenizer, about)
        parameters = sum(tensor.numel() for tensor in found.params.values())
        log_line(run.path, event="adopted", parameters=parameters, **about)
    return {**about, "run": str(run.path), "parameters": parameters, "vocabulary": model.vocab_size, "dtype": kind}
