"""``dynlm`` from Python: ``dynlm.load`` gives a model that reads, generates and remembers.

``dynlm.attach`` gives the same for a model of ``transformers`` that is in memory. A loaded run can be shared by
``huggingface_hub``'s mixin (``save_pretrained``, ``push_to_hub``, ``from_pretrained``), without what it has read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelCard, ModelHubMixin

from dynlm.adapt.memory_file import options_of
from dynlm.adapt.options import MemoryOptions
from dynlm.errors import UserError
from dynlm.evaluation.generate import generate
from dynlm.evaluation.model_card import model_card
from dynlm.evaluation.protocol import variant_name
from dynlm.evaluation.sampling import Sampling, Stop
from dynlm.evaluation.session import Session
from dynlm.evaluation.session_folder import memory_file_in, save_session
from dynlm.evaluation.text_result import TextResult
from dynlm.run.attach import AttachedModel, Wanted, attach_memory
from dynlm.run.hub import fetch_run
from dynlm.run.run import Run
from dynlm.run.sharing import share_run

if TYPE_CHECKING:
    from dynlm.evaluation.score_file import Scores
    from dynlm.report.heatmap import HeatMap
    from dynlm.report.notebook import DifferenceCurve

_OF_DOWNLOADS = ("revision", "cache_dir", "force_download", "local_files_only", "token")
"""What ``ModelHubMixin.from_pretrained`` passes on beside the options of the memory."""
_MOST_DRAWN = 2000
"""Tokens of a heat map in a notebook."""


@dataclass(frozen=True, repr=False)
class Losses(TextResult):
    """What ``DynamicLM.read`` returns; in a notebook it draws each token's gain over the static model.

    ``protocol``: the variant that read the text (rule, cache), reset policy and segment.
    """

    protocol: Mapping[str, Any] = field(default_factory=lambda: {"variant": "adapted"})

    def heat_map(self, tokens: int = _MOST_DRAWN) -> HeatMap:
        """Return the first ``tokens`` tokens, blue where the model that learned loses fewer nats than the static one.

        Its ``save`` writes pictures and a page. Raises UserError where nothing was read, or read with ``static=False``.
        """
        from dynlm.report.own_text import heat_map_of

        return heat_map_of(*self._pair(tokens))

    def plot(self, window: int | None = None) -> DifferenceCurve:
        """Return the curve of the static model's perplexity minus the memory's; ``window`` tokens are averaged over.

        It displays itself in a notebook, and its ``save`` writes a picture. Raises UserError as ``heat_map`` does.
        """
        from dynlm.report.notebook import DifferenceCurve

        return DifferenceCurve(self._pair(), None, window)

    def _pair(self, tokens: int | None = None) -> tuple[Scores, Scores]:
        """Return the scores of the static model and of the memory, of the first ``tokens`` tokens."""
        from dynlm.report.own_text import score_pair

        opening = " ".join(b"".join(self.surface[:40]).decode("utf-8", "replace").split())
        return score_pair([self.head(tokens or len(self))], [opening[:60]], self.protocol)

    def _repr_html_(self) -> str | None:
        return None if self.static is None or not len(self) else self.heat_map()._repr_html_()


_differentiable = torch.inference_mode(False)
"""Decorates what learns or makes tensors that learn: in ``torch.inference_mode`` there are no gradients."""


class DynamicLM(ModelHubMixin, library_name="dynlm"):
    """A trained model and the memory of what it has read, at first nothing; see ``load`` and ``attach``."""

    @_differentiable
    def __init__(self, source: Run | AttachedModel):
        """Raises UserError where ``source`` is not trained, or lacks what the memory's options ask for."""
        self._hub_mixin_config = None  # a run describes itself in its own files
        self._source = source
        self._session = Session.open(source)
        self._static: Session | None = None  # beside an unfinished article

    def __repr__(self) -> str:
        trained, options = self._session.trained, self.options
        rule = self._session.dynamic_model.rule
        what = ", ".join(options.targets) + (f" (LoRA, rank {options.lora_rank})" if options.lora_rank else "")
        parts = [
            str(trained.card.get("adopted_from") or trained.card.get("class") or trained.model.options.kind),
            f"rule {rule.name}" + (f" moves {what}" if rule.learns else ""),
            f"{self.tokens_read:,} tokens read, distance {self.distance:.4g}",
        ]
        return f"DynamicLM({'; '.join(parts)})"

    @property
    def options(self) -> MemoryOptions:
        """The options of the memory: rule, reset policy, segment and so on."""
        return self._session.options

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the static parameters, which reading does not change."""
        return self._session.trained.fingerprint

    @property
    def tokens_read(self) -> int:
        """How many tokens the memory has learned from."""
        return self._session.saved.tokens

    @property
    def distance(self) -> float:
        """|theta_t - theta_0| / |theta_0| of the tensors that move; of low-rank factors |theta_t - theta_0|."""
        return self._session.distance

    @_differentiable
    def read(self, text: str, unfinished: bool = False, static: bool = True) -> Losses:
        """Read ``text`` as an article and learn from it; return the loss of each token before it was learned from.

        With ``unfinished`` the next text continues the article; the last tokens may then be read, and returned, only
        with that. The static model reads beside it, without learning; ``static=False`` saves that time. Where it starts
        within an unfinished article, its context there is what the other model has kept of it. Raises UserError for an
        empty text.
        """
        session = self._session.copy()  # an interrupted reading leaves the memory as it was
        beside = None
        if static and not session.compares:
            beside = session.level_1() if self._static is None else self._static.copy()
        result = session.read(text, finish=not unfinished)
        if beside is not None:
            result = replace(result, static=beside.read(text, finish=not unfinished).nats)
        session.record(result)
        self._session, self._static = session, beside if unfinished else None
        columns = {item.name: getattr(result, item.name) for item in fields(result)}
        columns["static"] = result.static if static else None
        variant, options = variant_name(session.dynamic_model), session.options
        return Losses(**columns, protocol={"variant": variant, "reset": options.reset, "segment": options.segment})

    def generate(
        self, prompt: str = "", tokens: int = 200, stop: str | Sequence[str] = (), learn: bool = False, **sampling: Any
    ) -> str:
        """Return up to ``tokens`` tokens sampled after ``prompt``, ending before the first of the texts ``stop``.

        The prompt continues an unfinished article; the memory stays as it is. ``sampling`` are ``temperature``,
        ``top_k``, ``top_p`` and ``seed``: see ``Sampling``. With ``learn`` each segment that was generated is learned
        from before the next one is. Raises UserError for options out of their range.
        """
        return "".join(self.stream(prompt, tokens, stop, learn, **sampling))

    @_differentiable
    def stream(
        self, prompt: str = "", tokens: int = 200, stop: str | Sequence[str] = (), learn: bool = False, **sampling: Any
    ) -> Iterator[str]:
        """Return an iterator over the text of ``generate``, in pieces as they are sampled.

        What the model reads meanwhile does not change the text.
        """
        ends = Stop((stop,) if isinstance(stop, str) else tuple(stop))
        session, how = self._session.copy(), Sampling(tokens, **sampling)
        pieces: Iterator[str] = _differentiable(generate)(session, prompt, how, ends, learn)  # each time it goes on
        return pieces

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Save the memory as a folder for ``load_memory``, in the place of one that was saved there before.

        Low-rank factors make it an adapter too: ``peft.PeftModel.from_pretrained(model, folder)`` predicts as this
        model would if it learned no more. Raises UserError for a folder with other files, where it cannot be written,
        and for a memory that diverged.
        """
        save_session(self._session, Path(folder))

    def save_memory(self, path: str | os.PathLike[str]) -> None:
        """Save the memory in one file, atomically, for ``load_memory`` and the commands' ``--memory``."""
        self._session.save(Path(path))

    @_differentiable
    def load_memory(self, path: str | os.PathLike[str]) -> None:
        """Replace the memory and its options by those of a file, or of a folder that ``save`` wrote.

        Raises UserError where the file is damaged or of another model; the memory then stays as it was.
        """
        path = memory_file_in(Path(path)) if Path(path).is_dir() else Path(path)
        source = self._source.with_memory(options_of(path, self.options))
        self._session = Session.open(source, path)
        self._source, self._static = source, None

    @_differentiable
    def reset(self) -> None:
        """Forget everything that was read."""
        self._session, self._static = self._session.fresh(), None

    forget = reset

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the card that ``save_pretrained`` and ``push_to_hub`` write as README.md."""
        return ModelCard(model_card(self._run))

    def _save_pretrained(self, save_directory: Path) -> None:
        share_run(self._run.path, save_directory)

    @property
    def _run(self) -> Run:
        """The run. Raises UserError for a model that was attached."""
        if isinstance(self._source, Run):
            return self._source
        raise UserError("a model that was attached is no run, which can be shared", do="use `dynlm adopt`, or `save`")

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> DynamicLM:
        download = {name: options.pop(name) for name in _OF_DOWNLOADS}
        return load(model_id if Path(model_id).is_dir() else fetch_run(model_id, **download), **options)


@_differentiable
def load(path: str | os.PathLike[str], **options: Any) -> DynamicLM:
    """Load the run of a folder or a name; ``options`` of the memory, such as ``rule="rms"``, replace the run's own.

    A name is that of a folder, of a run in ``runs/``, of a model that comes with dynlm (``data/models`` of a checkout,
    or in the package), or ORG/NAME on the Hugging Face hub, in this order. Raises UserError where there is no trained
    model, for an unknown option, and where the rule was not tuned.
    """
    run = Run.open(path)
    return DynamicLM(run.with_memory(run.memory.with_options(options)))


@_differentiable
def attach(
    model: Any,
    tokenizer: Any,
    *,
    targets: str | Sequence[str] | None = None,
    rank: int | None = None,
    rule: str | os.PathLike[str] = "adam",
    statistics: str | os.PathLike[str] | Iterable[str] | None = None,
    **options: Any,
) -> DynamicLM:
    """Give a causal language model of ``transformers`` a memory; the model stays as it is, and its weights are shared.

    It is read without dropout, whatever mode it is in, on its device. Of weights in half precision, copies of what
    moves are float32. What one text taught is kept for the next one, unless ``reset="article"``. Training the model
    further in place invalidates the memory.

    Args:
        model: The model, with weights in float32, bfloat16 or float16 on one device.
        tokenizer: Its tokenizer, a fast one.
        targets: Patterns of module or tensor names, or parts of dotted names such as ``mlp.down_proj``; default all.
        rank: Rank of the low-rank factors (LoRA) that move beside the target matrices, by default 8; 0: the target
            tensors themselves move.
        rule: The update rule: ``adam``, ``sgd``, ``sgd+decay``, ``rms``, ``none``, one of a plug-in, or the path of a
            learned rule in a run of the same model, such as ``runs/NAME/memory/LABEL/meta-stream.safetensors``.
        statistics: For ``rms``, texts on which root mean squares of gradients are computed (do not read them later), or
            the path of a run's ``statistics.safetensors``: constants that are not given are then those tuned in the
            run.
        options: Options of the memory (``lr``, ``decay``, ``reset``, ``segment``, ``lora_alpha``, ``cache``,
            ``no_regret``, ...; see ``MemoryOptions``) and of the window (``context``, ``stride``, ``refresh``,
            ``attention``; see ``HFOptions``), and ``seed``, which draws the factors. Defaults: segments of 128 tokens,
            a context of 1,024 or all positions of the model, a stride of half of that, ``lora_alpha`` of twice the
            rank, and for ``adam`` a learning rate of 1e-3 for factors and 1e-4 for weights. With the path of a file of
            a run, the defaults are that run's options.

    Raises:
        UserError: for a model or a tokenizer that cannot be used, an unknown option, constants or statistics that are
            missing, and without the extra ``dynlm[hf]``.
    """
    return DynamicLM(attach_memory(model, tokenizer, Wanted(rule, targets, rank, statistics, options)))
