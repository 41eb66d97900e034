"""What papers report, to stand beside one's own figures. Each with its source; all on Omniglot or the sinusoid."""

from __future__ import annotations

from typing import Any

# (learner as in a protocol, ways, shots): (accuracy in %, half-width of the interval or None, source). Finn et al. 2017
# and Nichol et al. 2018 draw test characters at random, the former's statistics are transductive.
_OMNIGLOT: dict[tuple[str, str, int, int], tuple[str, str]] = {}


def _add(learner: str, statistics: str, source: str, figures: dict[tuple[int, int], str]) -> None:
    for (ways, shots), figure in figures.items():
        _OMNIGLOT[learner, statistics, ways, shots] = (figure, source)


_FINN, _NICHOL = "Finn et al. 2017", "Nichol et al. 2018"
_add(
    "maml",
    "transductive",
    _FINN,
    {(5, 1): "98.7 ± 0.4", (5, 5): "99.9 ± 0.1", (20, 1): "95.8 ± 0.3", (20, 5): "98.9 ± 0.2"},
)
_add(
    "fomaml",
    "transductive",
    _NICHOL,
    {(5, 1): "98.3 ± 0.5", (5, 5): "99.2 ± 0.2", (20, 1): "89.4 ± 0.5", (20, 5): "97.9 ± 0.1"},
)
_add(
    "reptile",
    "inductive",
    _NICHOL,
    {(5, 1): "95.39 ± 0.09", (5, 5): "98.90 ± 0.10", (20, 1): "88.14 ± 0.15", (20, 5): "96.65 ± 0.33"},
)
_add(
    "reptile",
    "transductive",
    _NICHOL,
    {(5, 1): "97.68 ± 0.04", (5, 5): "99.48 ± 0.06", (20, 1): "89.43 ± 0.14", (20, 5): "97.12 ± 0.32"},
)
_add("maml++", "transductive", "Antoniou et al. 2019", {(5, 1): "99.47", (5, 5): "99.93"})
_add("anil", "transductive", "Raghu et al. 2020", {(20, 1): "96.2 ± 0.5", (20, 5): "98.0 ± 0.3"})

# Mean squared error after 1, 5 and 10 steps on 10 points.
_SINUSOID = {"maml": (("0.67", "0.38", "0.35"), _FINN)}


def published_accuracy(protocol: dict[str, Any]) -> tuple[str, str]:
    """(figure in %, source) of the same learner on the same kind of episode; dashes where there is none."""
    if protocol.get("task") != "omniglot":
        return "-", "-"
    key = (protocol["learner"], str(protocol.get("statistics")), protocol.get("ways"), protocol.get("shots"))
    return _OMNIGLOT.get(key, ("-", "-"))  # type: ignore[arg-type]


def published_error(protocol: dict[str, Any], step: int) -> tuple[str, str]:
    """(mean squared error, source) of the same learner after 1, 5 or 10 steps; dashes where there is none."""
    found = _SINUSOID.get(protocol["learner"])
    if found is None or protocol.get("task") != "sinusoid" or protocol.get("shots") != 10 or step not in (1, 5, 10):
        return "-", "-"
    return found[0][(1, 5, 10).index(step)], found[1]
