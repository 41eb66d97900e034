"""Commands that train: the corpus, level 1, rules, caches, phi. torch is imported only when they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynlm.cli.command import command, is_quiet, open_run, print_answer
from dynlm.runtime.perplexity import format_perplexity

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from dynlm.train.config import Config


"""Name of each tuned constant by the key that it is stored with."""


@command("corpus", sections="corpus")
def _corpus(options: Namespace, config: Config) -> int:
    """Describe a corpus: articles, words, types and longest article of each split.

    dynlm corpus
    dynlm corpus --corpus.path wikitext-2/ --json
    """
    from dynlm.data.articles import describe, open_source
    from dynlm.runtime.text import printable

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
    rows += [f"not read: {printable(path)}: {why}" for path, why in left.items()]
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


@command("tune", resumes=True, takes_run=True, sections="run corpus memory tune", common="memory tune")
def _tune(options: Namespace, config: Config) -> int:
    """Tune the constants of a rule, or of a cache, on articles that no figure is reported on.

    dynlm tune runs/demo
    dynlm tune runs/demo --memory.rule sgd --memory.reset article
    """
    if config.memory.cache != "none":
        return _tune_cache(options, config)
    from dynlm.train.tune import tune

    run = open_run(options, config)
    done = tune(run, config.memory, config.tune, is_quiet(options))
    values = ", ".join(f"{name} {done[name]:g}" for name in ("lr", "decay", "epsilon") if name in done)
    print_answer(
        options,
        done,
        f"{done['rule']} ({done['reset']}): {values}: {done['nats_per_token']:.4f} nats per token, level 1 "
        f"{done['level_1_nats_per_token']:.4f}, on {len(done['articles'])} articles of {done['split']}",
    )
    return 0


def _tune_cache(options: Namespace, config: Config) -> int:
    from dynlm.train.cache import tune_cache

    run = open_run(options, config)
    done = tune_cache(run, config.memory, config.tune, is_quiet(options))
    print_answer(
        options,
        done,
        f"{done['rule']} + cache ({done['reset']}): window {done['window']}, inverse temperature "
        f"{done['inverse_temperature']:g}, share "
        f"{done['share']:g}: {done['nats_per_token']:.4f} nats per token, without it "
        f"{done['without_cache_nats_per_token']:.4f}, on {len(done['articles'])} articles of {done['split']}",
    )
    return 0


@command(
    "metatrain",
    resumes=True,
    takes_run=True,
    sections="run corpus memory tune g metatrain",
    common="memory g metatrain",
)
def _metatrain(options: Namespace, config: Config) -> int:
    """Meta-train the learned rule g, or a cache's gate, on articles that the language model has not seen.

    dynlm metatrain runs/demo
    dynlm metatrain runs/demo --metatrain.tokens 200000 --json
    """
    if config.memory.cache != "none":
        return _train_gate(options, config)
    from dynlm.train.metatrain import metatrain

    run = open_run(options, config)
    done = metatrain(run, config.memory, config.g, config.metatrain, config.tune, is_quiet(options))
    nats = done["tuning_nats_per_token"]
    rows = [f"{'tensor':20}{'lr':>12}{'decay':>12}{'reset':>8}"]
    rows += [
        f"{name:20}{phi['alpha']:>12.3g}{phi['lambda']:>12.3g}{phi.get('boundary_reset', 0.0):>8.2f}"
        for name, phi in done["phi"].items()
    ]
    rows.append(
        f"on the tuning articles: {nats['start']:.4f} nats per token at the start (rms), "
        f"{nats['halfway']:.4f} halfway, {nats['learned']:.4f} as learned; kept: {done['kept']}"
    )
    rows.append(f"learned on {done['tokens']:,} tokens: {done['passes']:.2f} passes over the articles kept for it")
    if done["passes"] > 1 and done["reset"] == "stream":
        rows.append("note: after the first pass the memory met articles that it had learned from before")
    print_answer(options, done, "\n".join(rows))
    return 0


@command(
    "finetune",
    resumes=True,
    takes_run=True,
    sections="run corpus memory tune metatrain finetune",
    common="memory finetune",
)
def _finetune(options: Namespace, config: Config) -> int:
    """Train the static parameters further while a rule adapts them, into a new run.

    dynlm finetune runs/demo --memory.rule rms
    dynlm finetune runs/demo --memory.rule none --finetune.pick_rule rms
    """
    from dynlm.train.finetune import finetune

    run = open_run(options, config)
    done = finetune(run, config.memory, config.finetune, config.metatrain, config.tune, is_quiet(options))
    nats = ", ".join(f"{value:.4f} {name}" for name, value in done["tuning_nats_per_token"].items())
    print_answer(
        options,
        done,
        f"on the tuning articles, nats per token by {done['picked_by']}: {nats}; kept: {done['kept']}\n"
        f"level 1 on valid: {done['valid_nats_per_token']:.4f} nats per token\nwrote {done['run']}",
    )
    return 0


def _train_gate(options: Namespace, config: Config) -> int:
    from dynlm.train.gate import train_gate

    run = open_run(options, config)
    done = train_gate(run, config.memory, config.metatrain, config.tune, is_quiet(options))
    nats = done["tuning_nats_per_token"]
    inverse_temperatures = ", ".join(f"{value:g}" for value in done["inverse_temperature"])
    print_answer(
        options,
        done,
        f"{done['rule']} + gated cache ({done['reset']}): window {done['window']}, inverse temperatures "
        f"{inverse_temperatures}\n"
        f"on the tuning articles: {nats['none']:.4f} nats per token without a cache, {nats['start']:.4f} at the start, "
        f"{nats['learned']:.4f} as learned; kept: {done['kept']}\n{_how_it_ended(done)}",
    )
    return 0


def _how_it_ended(done: Mapping[str, Any]) -> str:
    made = f"{done['passes_made']} passes over {done['tokens']:,} tokens, of which {done['passes']} are kept"
    return f"{made}; note: it was still improving at the last pass allowed" if done["still_improving"] else made
