"""The heat map's colour scale: red, neutral, blue, symmetric about zero and safe for colour-blind readers.

A token's gain falls into one of 17 steps, -8 (much worse) to 8 (much better). Letters are black or white, whichever
is easier to read on the step's background; a line shows sign and strength too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb

STEPS = 8
LINES = "A line above a token: solid where fewer nats are lost on it, dotted where more; the thicker, the more so."
UNDERLINE = "Underlined: the word occurred before in this article."
"""What marks of tokens mean, in pictures, pages and the terminal alike."""
_LIGHT = ("#b2182b", "#d6604d", "#f4a582", "#fddbc7", "#ffffff", "#d1e5f0", "#92c5de", "#4393c3", "#2166ac")
_DARK = ("#ff9d80", "#d9694f", "#9c4030", "#57291f", "#181a1f", "#1b3a54", "#22628f", "#4196cf", "#8fd0ff")
_ROUND_LIMITS = (0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0)


@dataclass(frozen=True)
class Step:
    """One step of the scale: index, (background, letters) in light and dark mode, and the line's thickness."""

    index: int
    light: tuple[str, str]
    dark: tuple[str, str]

    @property
    def thickness(self) -> int:
        """Thickness of the line above the token, 0 to 3: solid where the higher level is better, else dotted."""
        return (abs(self.index) + 1) // 3

    @property
    def css_class(self) -> str:
        """``b3`` for better, ``w3`` for worse, ``z`` for about the same."""
        return "z" if not self.index else f"{'b' if self.index > 0 else 'w'}{abs(self.index)}"


@cache
def all_steps() -> tuple[Step, ...]:
    """Return all steps, worst first."""
    light, dark = colour_map(), colour_map(dark=True)
    return tuple(Step(index, _colours(light, index), _colours(dark, index)) for index in range(-STEPS, STEPS + 1))


def step_of(gain: float, limit: float) -> Step:
    """Return the step of a gain in nats where the scale ends at ``limit`` nats."""
    return all_steps()[int(np.clip(round(gain / limit * STEPS), -STEPS, STEPS)) + STEPS]


def limit_of(gains: np.ndarray) -> float:
    """Return a round end of the scale, in nats, that covers all but the most extreme 2 % of ``gains``."""
    covered = float(np.quantile(np.abs(gains), 0.98)) if len(gains) else 1.0
    return next((limit for limit in _ROUND_LIMITS if limit >= covered), float(np.ceil(covered)))


def colour_map(dark: bool = False) -> LinearSegmentedColormap:
    """Return the map from red to blue through white, or in dark mode through near-black."""
    return LinearSegmentedColormap.from_list("worse-better", _DARK if dark else _LIGHT)


def _colours(colours: LinearSegmentedColormap, index: int) -> tuple[str, str]:
    """Return a step's background and its letters: black or white, whichever has the higher contrast (WCAG 2)."""
    background = to_hex(colours((index + STEPS) / (2 * STEPS)))
    channels = np.array(to_rgb(background))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return background, "#000000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"
