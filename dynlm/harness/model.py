"""The model ``dynlm`` of lm-evaluation-harness. Importing this module registers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lm_eval.models  # noqa: F401  # the harness registers its own models only while no other is registered
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from dynlm.adapt.dynamic_model import constants_of
from dynlm.errors import UserError
from dynlm.evaluation.protocol import variant_name
from dynlm.harness.arguments import Arguments
from dynlm.harness.generation import generation_of
from dynlm.harness.opening import open_model
from dynlm.harness.reader import DocumentReader
from dynlm.models.hf.options import HFOptions
from dynlm.run.folder import TrainedModel
from dynlm.run.provenance import made_with

PROTOCOL = {
    "loglikelihood": "the context is an article: each segment is scored, then learned from; the continuation is scored "
    "with the memory then reached and never learned from; a context that follows itself is read once",
    "loglikelihood_rolling": "a document is an article: each segment is scored, then learned from; the sum of the log "
    "probabilities of all tokens",
    "generate_until": "the context is an article: each segment is scored, then learned from; generated text is not",
}
RESETS = {
    "article": "each document starts from the static parameters",
    "stream": "the memory of a document starts where that of the one before ended, in the harness's order",
}


@register_model("dynlm")
class DynamicHarnessLM(LM):
    """A model whose weights change while it reads; ``arguments`` are those of ``--model_args``.

    ``run``: a run's folder; ``pretrained``: a folder, a GGUF file or a model on the hub. ``reset`` is "article" where
    it is not given. ``batch_size`` and ``max_batch_size`` are ignored: documents are read one after another. Raises
    UserError, naming the argument, for what does not fit.
    """

    def __init__(self, batch_size: Any = None, max_batch_size: Any = None, **arguments: Any):
        super().__init__()
        opened = open_model(Arguments.parse(arguments))
        self.trained, self.memory_options, self.tuned_on = opened.trained, opened.memory, opened.tuned_on
        self.seed, self.generated = opened.seed, 0
        self.reader = DocumentReader(opened.dynamic_model, self.trained.tokenizer, self.memory_options.segment)
        self._device = self.trained.device

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log probability of each continuation, and whether greedy decoding gives it."""
        self.reader.forget_context()
        found = []
        for request in _progress(requests, disable_tqdm):
            context, continuation = _moved_spaces(*request.args)
            read = self.reader.read_context(context)
            whole = tuple(self.trained.tokenizer.encode(context + continuation).ids.tolist())
            if whole[: len(read.ids)] == read.ids:
                ids = whole[len(read.ids) :]
            else:  # a token of both together crosses from one to the other
                ids = tuple(self.trained.tokenizer.encode(continuation).ids.tolist())
            found.append(self.reader.score(read, ids))
            self.cache_hook.add_partial("loglikelihood", request.args, found[-1])
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log probability of each document, each token scored before it is learned from."""
        sums = self.reader.read([request.args[0] for request in requests])
        found = []
        for request, total in zip(_progress(requests, disable_tqdm), sums, strict=True):
            found.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the text generated after each context, up to a stop string, which is cut off."""
        self.reader.forget_context()
        found = []
        for request in _progress(requests, disable_tqdm):
            context, options = request.args
            sampling, stop = generation_of(options, end_tokens(self.trained), self.seed + self.generated)
            self.generated += 1
            found.append(self.reader.continue_text(self.reader.read_context(context), sampling, stop))
            self.cache_hook.add_partial("generate_until", request.args, found[-1])
        return found

    def get_model_info(self) -> dict[str, Any]:
        """Describe model, memory and protocol, for the results of the harness."""
        trained, dynamic_model = self.trained, self.reader.dynamic_model
        about = {
            "static_model": {
                "fingerprint": trained.fingerprint,
                "adopted_from": trained.card.get("adopted_from"),
                "tokenizer": trained.tokenizer.fingerprint,
                "options": {
                    name: value for name, value in vars(trained.model.options).items() if name != "architecture"
                },
            },
            "memory": {
                "variant": variant_name(dynamic_model),
                "rule": dynamic_model.rule.name,
                "constants": constants_of(dynamic_model),
                "tuned_on": self.tuned_on,
                "options": dict(vars(self.memory_options)),
                "tokens_learned_from": self.reader.tokens,
                "rejected_updates": self.reader.rejected,
            },
            "protocol": {**PROTOCOL, "reset": RESETS[dynamic_model.reset], "seed": self.seed},
            **made_with(trained.device),
        }
        dtype = next(iter(trained.params.values())).dtype
        return {"model_num_parameters": trained.card.get("parameters"), "model_dtype": str(dtype), "dynlm": about}

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Keep the harness's cache of responses. Raises UserError under ``reset=stream``."""
        if self.reader.dynamic_model.reset == "stream" and getattr(cache_hook, "dbdict", None) is not None:
            what = "use_cache does not go with reset=stream: what is not read is not learned from"
            raise UserError(what, do="leave it out, or choose reset=article")
        super().set_cache_hook(cache_hook)

    @property
    def tokenizer_name(self) -> str:
        """The harness asks for it to apply chat templates, which raises UserError."""
        what = "apply_chat_template is not supported: special tokens in a text are read as plain text"
        raise UserError(what, do="leave it out")


def end_tokens(trained: TrainedModel) -> frozenset[int]:
    """Return the tokens that end a text: the one before each article, and those of a transformer's configuration."""
    found = {trained.tokenizer.start}
    if isinstance(trained.model.options, HFOptions):
        own = trained.model.config.eos_token_id  # type: ignore[attr-defined]  # an HFModel
        found |= {own} if isinstance(own, int) else set(own or ())
    return frozenset(found)


def _moved_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Return both with the spaces at the context's end moved to the continuation, as the harness's own models do."""
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def _progress(requests: Sequence[Any], disable: bool) -> Any:
    """Return the requests with a progress bar, which a terminal alone shows."""
    return tqdm(requests, desc="dynlm", disable=disable or None)
