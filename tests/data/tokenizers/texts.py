"""Texts and strategies that the tokenizers' tests share."""

from __future__ import annotations

from hypothesis import strategies as st

TEXT = [
    " = The harbour = \n \n The ships come in at dawn , and the ships go out at dusk . \n",
    "def harbour(ships):\n    return [ship for ship in ships if ship.in_harbour]\n",
    "Über die Brücke gehen \u2013 12 345 Schiffe.\n",
] * 4

# Any text that UTF-8 can encode, and what SentencePiece treats specially.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))

SPECIAL = st.lists(
    st.sampled_from(
        ["\u2581", "\n", " ", "  ", "\t", "\x00", "\r\n", "<s>", "</s>", "<unk>", "<0x0A>", "\u3000", "the"]
    )
).map("".join)
