"""Level 1: training the static parameters theta_0, and the tokenizer, into a run's folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, set_seed

from dynlm.data.articles import iter_articles, source_name, splits_with_articles
from dynlm.data.options import CorpusOptions, TokenizerOptions
from dynlm.data.spool import content_of, spool
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.store import train_tokenizer
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.models.registry import build_model
from dynlm.run.folder import log_line, save_config, save_model
from dynlm.run.options import ELSEWHERE
from dynlm.run.provenance import made_with, record_sitting, refuse_other_data
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive
from dynlm.runtime.parsing import read_json
from dynlm.runtime.renamed import current_name
from dynlm.runtime.validation import fingerprint_options
from dynlm.train.config import Config, load_config
from dynlm.train.pretrain_loop import PretrainLoop, validation_card

_PACKAGES = {"tensorboard": "dynlm[trackers]", "comet_ml": "comet-ml"}
"""What to install for trackers that are not named like their package."""


class Corpus(NamedTuple):
    """What level-1 training reads: the tokenizer and two splits in its tokens.

    ``content``: articles and fingerprint of each split that the source has, also of those that training does not read.
    """

    tokenizer: Tokenizer
    train: TokenisedSplit
    valid: TokenisedSplit
    content: dict[str, Any]


def load_corpus(corpus: CorpusOptions, options: TokenizerOptions) -> Corpus:
    """Read the training and validation articles, and train a tokenizer on the former (or take it from the cache)."""
    with spool(iter_articles(corpus, "train")) as train, spool(iter_articles(corpus, "valid")) as valid:
        tokenizer = train_tokenizer(options, (article.text for article in train), train.content["fingerprint"])
        read, held_out = (tokenise(texts, tokenizer, corpus.num_proc) for texts in (train, valid))
        content = {"train": train.content, "valid": valid.content}
    others = [split for split in splits_with_articles(corpus) if split not in content]
    content |= {split: content_of(iter_articles(corpus, split)) for split in others}
    return Corpus(tokenizer, read, held_out, content)


def pretrain(config: Config, quiet: bool = False) -> dict[str, Any]:
    """Train level 1 into the run's folder, resuming from its newest checkpoint.

    Returns what the model's card says of the training: steps, tokens, seconds and the loss on the whole validation
    split. Raises UserError for a corpus that cannot be read, a run folder that was made with other options or that
    another process trains, or a training that diverges, and Stopped, with a checkpoint saved, at Ctrl-C and SIGTERM.
    """
    folder = config.run.path
    with exclusive(folder, "this run"):
        return _pretrain(folder, config, quiet)


def _check_tracker(tracker: str) -> None:
    """Raise UserError unless accelerate supports a tracker and its package is installed."""
    if tracker not in (known := sorted(str(name) for name in LoggerType if name != LoggerType.ALL)):
        raise UserError(f"run.tracker is {tracker!r}, which accelerate lacks", do=f"choose among {', '.join(known)}")
    if tracker not in (installed := sorted(str(name) for name in get_available_trackers())):
        do = f"pip install {_PACKAGES.get(tracker, tracker)}"
        do += f", or choose among {', '.join(installed)}" if installed else ""
        raise UserError(f"run.tracker is {tracker!r}, which is not installed", do=do)


def _pretrain(folder: Path, config: Config, quiet: bool) -> dict[str, Any]:
    cpu, tracker, precision = config.run.cpu, config.run.tracker, config.run.precision
    if tracker is not None:
        _check_tracker(tracker)
    processes, checkpoints = Processes.start(cpu), checkpoints_of(config)
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision, log_with=tracker, project_dir=folder)
    if (card := _finished(folder, checkpoints, processes)) is not None:
        return card
    with processes.main_process_first():
        corpus = load_corpus(config.corpus, config.tokenizer)
    model = build_model(config.model, corpus.tokenizer.size)
    set_seed(config.run.seed)
    if processes.is_main:
        refuse_other_data(folder, corpus.content)
    if tracker:
        accelerator.init_trackers("dynlm", config={"options": str(dataclasses.asdict(config))})

    def log(step: int, fields: dict[str, Any]) -> None:
        if processes.is_main:
            log_line(folder, event="step", step=step, **fields)
        if tracker:
            accelerator.log(fields, step=step)

    with processes.in_step(config.run.patience) as in_step:
        loop = PretrainLoop(config, model, corpus.train, corpus.valid, accelerator, in_step)
        with Checkpointer(checkpoints, loop, in_step, config.pretrain.checkpoint_every) as checkpointer:
            resumed = checkpointer.resume()
            if processes.is_main:
                # Written after the checkpoint was loaded: they belong to the model that is trained.
                record_sitting(folder, corpus.content, made_with(processes.device))
                corpus.tokenizer.save(folder / "tokenizer")
                save_config(folder, config)
                if resumed is not None:
                    log_line(folder, event="resumed", step=loop.step, checkpoint=resumed.name)
            loop.run(checkpointer, log, quiet or not processes.is_main)
    params = loop.optimizer.current()
    about = {
        "corpus": source_name(config.corpus),
        "steps": loop.step,
        "tokens": loop.position.tokens,
        "seconds": round(loop.seconds, 1),
        "processes": processes.world,
        **validation_card(model, params, corpus.valid),
    }
    if processes.is_main:
        save_model(folder, model, params, corpus.tokenizer, about)
        log_line(folder, event="pretrained", **about)
        checkpoints.drop()
    accelerator.end_training()
    return about


def checkpoints_of(config: Config) -> Checkpoints:
    """Return the checkpoints of a run's level-1 training; that the text is the same, the run's provenance checks."""
    run, sections = config.run, (config.corpus, config.tokenizer, config.model, config.regularisation, config.pretrain)
    made_with = {"run.seed": run.seed, "run.precision": run.precision, **fingerprint_options(*sections)}
    return Checkpoints(run.path / "checkpoints", "step", run.checkpoints_kept, made_with)


def refuse_other_options(folder: Path, checkpoints: Checkpoints) -> None:
    """Raise UserError, naming the option, if the run in ``folder`` was begun with others than those of ``checkpoints``.

    They are the result of ``checkpoints_of``.
    """
    if not (folder / "config.yaml").exists():
        return
    earlier = checkpoints_of(load_config(folder)).made_with
    for name, value in checkpoints.made_with.items():
        if earlier[name] != value:
            what = f"this run was begun with {current_name(name)} {earlier[name]!r}, not {value!r}"
            raise UserError(what, folder, ELSEWHERE)


def _finished(folder: Path, checkpoints: Checkpoints, processes: Processes) -> dict[str, Any] | None:
    """Return the card of a run that was killed when only its checkpoints were left to remove, which is done now.

    None where there is something to train. Raises UserError for a run folder that was begun with other options, and for
    one that is trained.
    """
    refuse_other_options(folder, checkpoints)
    trained = (folder / "model.json").exists()
    # As the main process sees it, before it removes any.
    left = processes.gather_object(bool(checkpoints.paths()))[0]
    if trained and not left:
        raise UserError("this run is trained already", folder, ELSEWHERE)
    if not trained:
        return None
    if processes.is_main:
        checkpoints.drop()
    return dict(read_json(folder / "model.json"))
