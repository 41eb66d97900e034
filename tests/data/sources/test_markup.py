"""Markup is stripped as mwparserfromhell strips it, headings are WikiText's, and nothing unclosed loses the text."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.sources.markup import MarkupError, plain_text
from dynlm.data.sources.markup_spans import drop_spans
from dynlm.data.sources.wikitext import wikitext_articles
from dynlm.data.tokenised_split import _HEADING

mwparserfromhell = pytest.importorskip("mwparserfromhell", reason="the extra dynlm[wikipedia] is not installed")

ENGLISH = {"file": 6, "category": 14}


def body(markup: str, namespaces: dict[str, int] = ENGLISH) -> str:
    """Return the text of a page below its title."""
    text = plain_text(markup, "T", namespaces)
    assert not text or text.startswith("\n = T = \n\n")
    return text.removeprefix("\n = T = \n\n")


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' and ''italic'', [[a link]]s, [[target|shown]].", "Bold and italic, a links, shown."),
        ("a {{t|{{u|{{{v|w}}}}}|x={{y}}}} b", "a b"),
        ("a {{t\n| x = [[b]]\n|}} c", "a c"),
        ("a\n{| class=x\n! h\n|-\n| {{t|\n{| \n| inner\n|}\n}} || c\n|}\nb", "a\nb"),
        ('a<ref name="x">{{cite|[[b]]}}</ref> b<ref name=x/> c<REF>d</REF>', "a b c"),
        ("a <!-- {{ --> b <!-- unclosed", "a b"),
        ("x <math>\\frac{{a}}{b}}</math> y", "x y"),
        ("<nowiki>[[not]] {{a}} ''link'' = </nowiki>end", "[[not]] {{a}} ''link'' = end"),
        ("<nowiki>{{</nowiki> a }} {{b}}", "{{ a"),
        ("a [[File:x.jpg|thumb|A [[caption]] of {{t}}]] b [[Category:C]]", "a b"),
        ("[[:File:x.jpg]] and [[:Category:C|shown]]", "File:x.jpg and shown"),
        ("[[Bild:x.PNG|100px]]a [[de:T]] [[zh-min-nan:T]] [[wikt:word|word]]", "a word"),
        ("[http://a.b title] http://c.d/e [http://a.b]x", "title http://c.d/e x"),
        ("* one\n** two [[x]]\n# three\n; term : meaning\n: indented", "one\ntwo x\nthree\nterm meaning\nindented"),
        ("a&nbsp;b &amp; c &lt;d&gt; &#0; &#xD800; &eacute;", "a b & c <d> &#0; \ufffd é"),
        ("__NOTOC__ a __INHALTSVERZEICHNIS__ __init__", "a __init__"),
        ("<div class=x><small>a</small><br/>b</div> <sub>2</sub>", "a\nb 2"),
        ("Bern ({{IPA|x}}) (; 1 May) ({{a}}; {{b}}, c) is", "Bern (1 May) (c) is"),
        ("東京\uff08{{lang|x}}\uff09は", "東京は"),
    ],
)
def test_markup_is_stripped(markup, text):
    assert body(markup) == f"{text}\n"


def test_headings_are_lines_of_wikitext():
    markup = "Lead.\n== A '''b''' [[c|d]] ==\n=== E ===\ntext\n= Top =\nmore\n== Empty ==\n=== also ===\n{{reflist}}"
    expected = "Lead.\n\n = = A b d = = \n\n\n = = = E = = = \n\ntext\n\n = = Top = = \n\nmore\n"
    assert body(markup) == expected
    text = plain_text(markup, "T", ENGLISH)
    assert len(_HEADING.findall(text.encode())) == 4
    (article,) = wikitext_articles(("here", line) for line in text.splitlines(keepends=True))
    assert (article.title, article.text) == ("T", text)


def test_uneven_and_empty_headings():
    assert body("=== a ==\nx") == "\n = = = a = = = \n\nx\n".replace("= = =", "= =")
    assert body("== == \nx\n====\ny") == "\n = = = = = = \n\ny\n" or body("====\ny").endswith("y\n")
    assert body("== A ==") == "" and plain_text("{{only}}", "T", ENGLISH) == ""


@pytest.mark.parametrize(
    "mark", ["{{", "{{t|", "[[", "[[a|", "<ref>", "<b>", "<div class='x'>", "'''", "{|", "\n{| x\n", "</ref>"]
)
@pytest.mark.parametrize("close", ["}}", "]]", "|}", "</ref>", ""])
def test_what_is_unclosed_takes_no_text_with_it(mark, close):
    text = body(f"before {mark} middle.\n\nSecond paragraph {{{{x}}}} [[link]].\n\n== H ==\nLast.")
    assert "before" in text and text.endswith("Second paragraph link.\n\n = = H = = \n\nLast.\n")
    assert body(f"before {close} after") in ("before after\n", "before |} after\n")


@pytest.mark.parametrize(
    "unit",
    [
        "{{a|",
        "[[a|",
        "<b>x\n",
        "<ref>a ",
        "{|\n",
        "[http://a ",
        "<nowiki>",
        "<!--",
        "'''",
        "==\n",
        "\n== a",
        "|}",
        "}}",
    ],
)
def test_time_is_linear_in_what_is_unclosed(unit):
    begun = time.process_time()
    try:
        plain_text(unit * 20_000, "T", ENGLISH)
    except MarkupError as error:
        assert "3,000 marks in a paragraph" in str(error)
    assert time.process_time() - begun < 10


WORDS = st.sampled_from(["alpha", "beta", "gamma.", "delta,"])
LEAVES = st.one_of(
    WORDS,
    st.sampled_from(
        ["[[link]]", "[[a|shown]]", "'''bold'''", "&amp;", "<br/>", "\n", "\n\n", "[http://x y]", "<!-- c -->"]
    ),
)
INLINE = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        .map(" ".join)
        .flatmap(
            lambda text: st.sampled_from(
                [f"{{{{t|{text}}}}}", f"<ref>{text}</ref>", f"\n{{| class=x\n| {text}\n|}}\n", text]
            )
        )
    ),
    max_leaves=8,
)


def naive(markup: str) -> list[str]:
    """Return the words of a page as mwparserfromhell finds them, without templates, references and tables."""
    code = mwparserfromhell.parse(markup)
    for node in code.filter_tags(matches=lambda tag: tag.tag in ("ref", "table")):
        if code.contains(node):
            code.remove(node)
    return str(code.strip_code(keep_template_params=False)).split()


@settings(deadline=None, max_examples=150)
@given(st.lists(INLINE, max_size=8).map(" ".join))
def test_the_words_are_those_of_a_parse_of_the_whole_page(markup):
    assert body(markup).split() == naive(markup)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from("{{ }} {| |} [[ ]] <ref> </ref> <ref/> <nowiki> </nowiki> <!-- --> \n | a b".split(" ")),
        max_size=24,
    ).map("".join)
)
def test_any_nesting_of_marks_is_read(markup):
    assert isinstance(plain_text(markup, "T", ENGLISH), str)
    # What is left has no mark that could drop anything more, except what entities stand for.
    assert re.sub(r"&#\d+;", "", drop_spans(drop_spans(markup))) == re.sub(
        r"&#\d+;", "", drop_spans(drop_spans(drop_spans(markup)))
    )
