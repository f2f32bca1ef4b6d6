"""Captions differ from the published ones if these fail, and so do all results compared to them."""

import pytest

from system.data.prepare.captions import clean_caption
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
