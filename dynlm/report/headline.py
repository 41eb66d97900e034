"""What a comparison shows, in one sentence, and what is to be known before the sentence is quoted."""

from __future__ import annotations

from dynlm.evaluation.compare import Comparison, VariantFigures
from dynlm.evaluation.overlap import overlap_notes
from dynlm.evaluation.tables import gain_cell
from dynlm.runtime.text import printable


def headline(comparison: Comparison) -> str:
    """Return the lowest perplexity beside the baseline's, per word, or per token where the text has no words.

    It says "cut" only where the gain's interval is above zero, or where there is no interval.
    """
    base, best = comparison.variants[comparison.baseline], best_of(comparison)
    gain, count = best.gain, len(comparison.articles)
    assert gain is not None
    unit, before, after = "word", base.perplexity_per_word, best.perplexity_per_word
    if before is None or after is None:
        unit, before, after = "token", base.perplexity_per_token or 0.0, best.perplexity_per_token or 0.0
    first, second = _figures(before, after)
    on = f"on {count:,} article{'s' * (count != 1)}"
    is_memory = base.protocol.get("level") == 1
    if gain.nats > 0 and (gain.low is None or gain.low > 0):
        who = f"Memory ({best.label})" if is_memory else best.label
        return f"{who} cut perplexity per {unit} from {first} to {second} {on}"
    none = "No memory" if is_memory else f"No variant but {base.label}"
    if gain.nats > 0:
        both = f"{base.label} {first}, {best.label} {second}"
        return f"No clear difference in perplexity per {unit} {on}: {both}"
    return f"{none} lowered perplexity per {unit} {on}: {base.label} {first}, {best.label} {second}"


def lead(comparison: Comparison) -> str:
    """Return the text, and the gain of the best variant with its interval."""
    base, best = comparison.variants[comparison.baseline], best_of(comparison)
    gain = f"{best.label} over {base.label}: {gain_cell(best.gain)} nats per token"
    interval = " (95 % interval over articles)" if best.gain and best.gain.low is not None else ""
    split = f"{printable(str(comparison.split))}, " if comparison.split else ""
    return f"Text: {split}{comparison.tokens:,} tokens. Gain of {gain}{interval}."


def cautions(comparison: Comparison) -> list[str]:
    """Return what makes the headline's figures better than those of other text would be."""
    best = best_of(comparison)
    return [f"{best.label}: {note}." for note in overlap_notes(best.overlap)]


def best_of(comparison: Comparison) -> VariantFigures:
    """Return the variant with the lowest loss, other than the baseline."""
    others = [each for index, each in enumerate(comparison.variants) if index != comparison.baseline]
    return min(others, key=lambda each: each.nats)


def _figures(before: float, after: float) -> tuple[str, str]:
    """Return two perplexities to three digits, or to as many more as tell them apart."""
    if max(before, after) >= 1e7:
        return f"{before:.2e}", f"{after:.2e}"
    fewest = 0 if min(before, after) >= 99.5 else 1 if min(before, after) >= 9.95 else 2
    shown = [(f"{before:,.{digits}f}", f"{after:,.{digits}f}") for digits in range(fewest, 5)]
    return next((pair for pair in shown if pair[0] != pair[1]), shown[-1])
