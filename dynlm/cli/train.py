"""Commands that train: the corpus, level 1, rules, caches, phi. torch is imported only when they run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dynlm.cli.command import MEMORY, WORK, Argument, Option, command, is_quiet, open_run, print_answer, skipped_lines
from dynlm.runtime.perplexity import format_perplexity
from dynlm.runtime.text import printable

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from dynlm.train.config import Config

_WITHOUT_CACHE = " ".join(
    f"-memory.{name}" for name in ("cache_window", "cache_inverse_temperature", "cache_share", "gate", "switch_share")
)
"""Options of a cache and of a mixture, for commands that refuse both."""


@command("corpus", sections="corpus -corpus.num_proc")
def _corpus(options: Namespace, config: Config) -> int:
    """Describe a corpus: articles, words, types and longest article of each split.

    dynlm corpus
    dynlm corpus --corpus.path wikitext-2/ --json
    """
    from dynlm.data.articles import describe, open_source

    source = open_source(config.corpus)
    counts, left = describe(source), source.skipped
    rows = [printable(source.name), f"{'split':8}{'articles':>10}{'words':>12}{'types':>10}  longest article"]
    for split, count in counts.items():
        longest = count["longest"]
        rows.append(
            f"{split:8}{count['articles']:>10,}{count['words']:>12,}{count['types']:>10,}  "
            f"{printable(longest['title'])} ({longest['words']:,} words)"
        )
    rows.append("words and types count each end of line as one, as the literature does")
    rows += skipped_lines(left)
    print_answer(options, {**counts, "not_read": dict(left)} if left else counts, "\n".join(rows))
    return 0


@command("pretrain", resumes=True, common="run corpus tokenizer model pretrain")
def _pretrain(options: Namespace, config: Config) -> int:
    """Train level 1: the tokenizer and the static parameters.

    dynlm pretrain --config wikitext-2-small --corpus.path DIR
    dynlm pretrain --run.name mine --corpus.path book.txt --print_config
    """
    from dynlm.train.pretrain import pretrain

    done = pretrain(config, is_quiet(options))
    print_answer(
        options,
        done,
        f"level 1 on valid: {done['valid_nats_per_token']:.4f} nats per token, perplexity "
        f"{format_perplexity(done['valid_perplexity_per_word'])} per word, after {done['tokens']:,} tokens "
        f"in {done['seconds']:.0f} s",
    )
    return 0


@command(
    "adopt",
    Argument("SOURCE", "a folder, a GGUF file, or the name of a model on the hub"),
    Option("--dtype", "type of the weights: float32, bfloat16, float16; auto: as they are stored", str, "auto"),
    sections=f"{WORK} run.patience corpus model memory",
    common="run model",
    config="pretrained",
)
def _adopt(options: Namespace, config: Config) -> int:
    """Make a run of a pretrained transformer: level 1 is that model.

    dynlm adopt SmolLM2-135M/ --run.name smol
    dynlm adopt model.gguf --run.name smol --model.context 2048
    """
    from dynlm.run.adopt import adopt
    from dynlm.runtime.validation import one_of

    one_of("--dtype", options.dtype, ("auto", "float32", "bfloat16", "float16"))
    done = adopt(config, options.source, options.dtype)
    text = f"{done['run']}: {done['parameters']:,} parameters in {done['dtype']}, {done['vocabulary']:,} tokens"
    print_answer(options, done, text)
    return 0


@command(
    "tune",
    resumes=True,
    takes_run=True,
    sections=f"{WORK} corpus model {MEMORY} -memory.gate tune",
    common="model memory tune",
)
def _tune(options: Namespace, config: Config) -> int:
    """Tune the constants of a rule, or of a cache, on articles that no figure is reported on.

    dynlm tune runs/demo
    dynlm tune runs/demo --memory.rule sgd --memory.reset article
    """
    from dynlm.adapt.rules.registry import RULES
    from dynlm.train.cache import tune_cache
    from dynlm.train.tune import tune

    cached = config.memory.cache != "none"
    done = (tune_cache if cached else tune)(open_run(options, config), is_quiet(options))
    names = ("window", "inverse_temperature", "share") if cached else RULES[done["rule"]].searched
    values = ", ".join(f"{name.replace('_', ' ')} {done[name]:g}" for name in names)
    rule = f"{done['rule']} + cache" if cached else done["rule"]
    without = "without it" if cached else "level 1"
    without_nats = done["without_cache_nats_per_token" if cached else "level_1_nats_per_token"]
    print_answer(
        options,
        done,
        f"{rule} ({done['reset']}): {values}: {done['nats_per_token']:.4f} nats per token, {without} "
        f"{without_nats:.4f}, on {len(done['articles'])} articles of {done['split']}",
    )
    return 0


@command(
    "metatrain",
    resumes=True,
    takes_run=True,
    sections=f"{WORK} run.patience corpus model {MEMORY} tune g metatrain",
    common="model memory g metatrain",
)
def _metatrain(options: Namespace, config: Config) -> int:
    """Meta-train the learned rule g, or a cache's gate, on articles that the language model has not seen.

    dynlm metatrain runs/demo
    dynlm metatrain runs/demo --metatrain.tokens 200000 --json
    """
    from dynlm.train.gate import train_gate
    from dynlm.train.metatrain import metatrain

    cached = config.memory.cache != "none"
    learn, rows_of = (train_gate, _rows_of_gate) if cached else (metatrain, _rows_of_rule)
    done = learn(open_run(options, config), is_quiet(options))
    print_answer(options, done, "\n".join(rows_of(done)))
    return 0


def _rows_of_rule(done: Mapping[str, Any]) -> Iterator[str]:
    wide, by_kind = max(20, *(len(name) + 1 for name in done["phi"])), done["g"]["sharing"] == "kind"
    slope = f"{'last/first':>12}" if by_kind else ""
    yield f"{'kind' if by_kind else 'tensor':{wide}}{'lr':>12}{slope}{'decay':>12}{'reset':>8}"
    for name, phi in done["phi"].items():
        slope = f"{math.exp(2 * phi['lr.depth']):>12.3g}" if by_kind else ""
        yield f"{name:{wide}}{phi['alpha']:>12.3g}{slope}{phi['lambda']:>12.3g}{phi.get('boundary_reset', 0.0):>8.2f}"
    begun = f"the g of {done['taken_from']['run']}" if "taken_from" in done else done["g"]["base"]
    if not done["tokens"]:
        yield f"nothing was learned: this is {begun}"
        return
    said = {"start": f"at the start ({begun})", "halfway": "halfway", "learned": "as learned"}
    nats = ", ".join(f"{value:.4f} {said[when]}" for when, value in done["tuning_nats_per_token"].items())
    further = done.get("texts", [])[1:]
    picking = "the tuning articles" + (" and valid articles of the further texts, a mean over texts" if further else "")
    yield f"on {picking}, nats per token: {nats}; kept: {done['kept']}"
    passes = [f"{done['passes']:.2f} passes over the articles kept for it"]
    passes += [f"{text['passes']:.2f} over {printable(text['text'])}" for text in further]
    yield f"learned on {done['tokens']:,} tokens{' in equal shares' if further else ''}: {', '.join(passes)}"
    if max(done["passes"], *(text["passes"] for text in further), 0) > 1 and done["reset"] == "stream":
        yield "note: after the first pass the memory met articles that it had learned from before"


def _rows_of_gate(done: Mapping[str, Any]) -> Iterator[str]:
    inverses, nats = ", ".join(f"{value:g}" for value in done["inverse_temperature"]), done["tuning_nats_per_token"]
    yield (f"{done['rule']} + gated cache ({done['reset']}): window {done['window']}, inverse temperatures {inverses}")
    yield (
        f"on the tuning articles: {nats['none']:.4f} nats per token without a cache, {nats['start']:.4f} at the start, "
        f"{nats['learned']:.4f} as learned; kept: {done['kept']}"
    )
    note = "; note: it was still improving at the last pass allowed" if done["still_improving"] else ""
    yield f"{done['passes_made']} passes over {done['tokens']:,} tokens, of which {done['passes']} are kept{note}"


@command(
    "finetune",
    resumes=True,
    takes_run=True,
    sections=f"{WORK} run.patience corpus {MEMORY} {_WITHOUT_CACHE} tune metatrain.lr metatrain.bound finetune",
    common="memory finetune",
)
def _finetune(options: Namespace, config: Config) -> int:
    """Train the static parameters further while a rule adapts them, into a new run.

    dynlm finetune runs/demo --memory.rule rms
    dynlm finetune runs/demo --memory.rule none --finetune.pick_rule rms
    """
    from dynlm.train.finetune import finetune

    done = finetune(open_run(options, config), is_quiet(options))
    nats = ", ".join(f"{value:.4f} {name}" for name, value in done["tuning_nats_per_token"].items())
    print_answer(
        options,
        done,
        f"on the tuning articles, nats per token by {done['picked_by']}: {nats}; kept: {done['kept']}\n"
        f"level 1 on valid: {done['valid_nats_per_token']:.4f} nats per token\nwrote {done['run']}",
    )
    return 0
