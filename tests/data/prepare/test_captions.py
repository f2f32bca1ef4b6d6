"""Captions differ from the published ones if these fail, and so do all results compared to them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.data.prepare.captions import (
    CAPTION_RULES,
    clean_caption,
    cleaned_spans,
    positive_spans,
)
from system.errors import ConfigError


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("lpi", 'A Man\'s dog, (brown); "big" #1: runs~!?*.', "a mans dog brown big 1 runs"),
        ("lpi", "black-and-white\t cat/dog  \n", "black and white cat dog"),
        ("lpi", "the <person> waits", "the person waits"),
        ("lpi", " ".join(f"w{i}" for i in range(40)), " ".join(f"w{i}" for i in range(30))),
        ("lpi", " .,!? ", ""),
        ("diff_prompt", "The Man's hat, left?", "the man's hat, left?"),
        ("diff_prompt", 'a.b!c"d(e)f*g#h:i;j~k', "a b c d e f g h i j k"),
        ("diff_prompt", "left-most / right", "left-most / right"),
        ("diff_prompt", " ".join(["w"] * 31), " ".join(["w"] * 30)),
        ("diff_prompt", "...", ""),
        ("none", "  Two \n words. ", "Two words."),
        ("none", " \n", ""),
    ],
)
def test_caption_is_cleaned_as_published(rule: str, text: str, expected: str) -> None:
    assert clean_caption(text, rule) == expected


def test_unknown_rule_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"caption_rule.*'lip'.*lpi, diff_prompt, none"):
        clean_caption("a", "lip")


@pytest.mark.parametrize(
    ("rule", "text", "words", "expected"),
    [
        ("lpi", "The man's (red) hat, left", "(red) hat,", "red hat"),
        ("lpi", "The man's hat", "man's", "mans"),
        ("lpi", "black-and-white cat/dog", "white cat/dog", "white cat dog"),
        ("lpi", "see <person> < here", "<person>", "person"),
        ("lpi", "see <person> < here", "< here", "< here"),
        ("diff_prompt", "A. Big!  DOG; left", "Big!  DOG", "big dog"),
        ("none", "  Two \n Words. ", "Words.", "Words."),
        ("lpi", "der İ Ball, ΟΔΟΣ!", "Ball, ΟΔΟΣ", "ball οδος"),
        ("none", "der İ Ball", "Ball", "Ball"),
        ("lpi", "a, ... b", "...", None),
        ("lpi", "w " * 30 + "hat", "hat", None),
        ("lpi", "hat", "", None),
    ],
)
def test_spans_are_those_of_the_same_words_in_the_cleaned_text(
    rule: str, text: str, words: str, expected: str | None
) -> None:
    """A grounder would else be trained on another word than the one that is meant."""
    begin = text.index(words)
    found = cleaned_spans(text, [(begin, begin + len(words))], rule)
    cleaned = clean_caption(text, rule)
    assert [cleaned[a:b] for a, b in found] == ([] if expected is None else [expected])


@given(
    st.text("aB \t.,'-/;<>İΣß", max_size=40),
    st.integers(0, 40),
    st.integers(0, 40),
    st.sampled_from(CAPTION_RULES),
)
def test_a_span_cleans_to_what_its_characters_alone_clean_to(
    text: str, one: int, other: int, rule: str
) -> None:
    """The slow twin cleans what is before, in and behind the span by itself."""
    begin, end = min(one, other), max(one, other)
    inner = "".join(clean_caption(text[begin:end], rule).split()).casefold()
    found = cleaned_spans(text, [(begin, end)], rule)
    cleaned = clean_caption(text, rule)
    assert "".join("".join(cleaned[a:b].split()) for a, b in found).casefold() == inner


def test_an_expression_that_loses_its_words_is_counted_and_keeps_all() -> None:
    """Nobody would know that a share of the set is judged otherwise."""
    words: Counter[str] = Counter()
    assert positive_spans("the cat!", [(4, 8)], "lpi", words) == ((4, 7),)
    assert positive_spans("the cat!", [(7, 8)], "lpi", words) == ()
    assert positive_spans("the cat!", [(0, 3), (7, 8)], "lpi", words) == ((0, 3),)
    assert positive_spans("the cat!", [], "lpi", words) == ()
    assert words == {"spans": 2, "lost": 2}
