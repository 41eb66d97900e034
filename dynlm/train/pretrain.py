"""Level 1: training the static parameters theta_0, and the tokenizer, into a run's folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed

from dynlm.data.articles import iter_articles, source_name, splits_with_articles
from dynlm.data.spool import content_of, spool
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.store import train_tokenizer
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.models.registry import build_model
from dynlm.run.folder import log_line, run_path, save_config, save_model
from dynlm.run.provenance import made_with, record_sitting, refuse_other_data
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive
from dynlm.runtime.parsing import read_json
from dynlm.runtime.perplexity import perplexity
from dynlm.runtime.renamed import current_name
from dynlm.runtime.validation import fingerprint_options
from dynlm.train.config import Config, load_config
from dynlm.train.pretrain_loop import PretrainLoop, validate


@dataclass(frozen=True)
class Corpus:
    """What level-1 training reads: the tokenizer and two splits in its tokens."""

    tokenizer: Tokenizer
    train: TokenisedSplit
    valid: TokenisedSplit
    content: dict[str, Any]
    """Articles and fingerprint of each split that the source has, also of those that training does not read."""


def load_corpus(config: Config) -> Corpus:
    """Read the training and validation articles, and train a tokenizer on the former (or take it from the cache)."""
    corpus = config.corpus
    with spool(iter_articles(corpus, "train")) as train, spool(iter_articles(corpus, "valid")) as valid:
        tokenizer = train_tokenizer(config.tokenizer, (article.text for article in train), train.content["fingerprint"])
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
    folder = run_path(config.run)
    with exclusive(folder, "this run"):
        return _pretrain(folder, config, quiet)


def _pretrain(folder: Path, config: Config, quiet: bool) -> dict[str, Any]:
    tracker, trackers = config.run.tracker, sorted(str(name) for name in get_available_trackers())
    if tracker is not None and tracker not in trackers:
        what = f"run.tracker is {tracker!r}, which is not installed"
        raise UserError(what, do=f"choose among {', '.join(trackers) or 'none'}")
    processes = Processes.start(config.run.cpu)
    accelerator = Accelerator(
        cpu=config.run.cpu, mixed_precision=config.run.precision, log_with=tracker, project_dir=folder
    )
    if (card := _finished(config, processes)) is not None:
        return card
    with processes.main_process_first():
        corpus = load_corpus(config)
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

    checkpoints = checkpoints_of(config)
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
    valid_nats, valid_tokens = validate(model, params, corpus.valid, 0)
    about = {
        "corpus": source_name(config.corpus),
        "steps": loop.step,
        "tokens": loop.position.tokens,
        "seconds": round(loop.seconds, 1),
        "processes": processes.world,
        "valid_nats_per_token": valid_nats / valid_tokens,
        "valid_perplexity_per_word": perplexity(valid_nats, int(corpus.valid.words_N.sum(dtype="int64"))),
    }
    if processes.is_main:
        save_model(folder, model, params, corpus.tokenizer, about)
        log_line(folder, event="pretrained", **about)
        checkpoints.drop()
    accelerator.end_training()
    return about


def checkpoints_of(config: Config) -> Checkpoints:
    """Return the checkpoints of a run's level-1 training; that the text is the same, the run's provenance checks."""
    return Checkpoints(run_path(config.run) / "checkpoints", "step", config.run.checkpoints_kept, _fingerprint(config))


def _finished(config: Config, processes: Processes) -> dict[str, Any] | None:
    """Return the card of a run that was killed when only its checkpoints were left to remove, which is done now.

    None where there is something to train. Raises UserError for a run folder that was begun with other options, and for
    one that is trained.
    """
    folder, checkpoints = run_path(config.run), checkpoints_of(config)
    if (folder / "config.yaml").exists():
        earlier = _fingerprint(load_config(folder))
        for name, value in _fingerprint(config).items():
            if earlier[name] != value:
                raise UserError(
                    f"this run was begun with {current_name(name)} {earlier[name]!r}, not {value!r}",
                    folder,
                    "choose another --run.name or remove the folder",
                )
    trained = (folder / "model.json").exists()
    # As the main process sees it, before it removes any.
    left = processes.gather_object(bool(checkpoints.paths()))[0]
    if trained and not left:
        raise UserError("this run is trained already", folder, "choose another --run.name or remove the folder")
    if not trained:
        return None
    if processes.is_main:
        checkpoints.drop()
    return dict(read_json(folder / "model.json"))


def _fingerprint(config: Config) -> dict[str, Any]:
    """Return the options that decide what is trained."""
    of_run = {"run.seed": config.run.seed, "run.precision": config.run.precision}
    return {
        **of_run,
        **fingerprint_options(config.corpus, config.tokenizer, config.model, config.regularisation, config.pretrain),
    }
