"""Caption cleaning by the rules of the two papers."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from system.data.shards.schema import Span
from system.errors import ConfigError, DataError

MAX_WORDS = 30

_LPI_DELETED = re.compile(r"[,.'!?\"()*#:;~]")
_DIFF_PROMPT_SPACED = re.compile(r"[.!\"()*#:;~]")
_SPACES = re.compile(r"\s+")


def _collapse(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


def _first_words(text: str) -> str:
    return " ".join(_collapse(text).split(" ")[:MAX_WORDS])


def _lpi(text: str) -> str:
    text = _LPI_DELETED.sub("", text.lower()).replace("-", " ").replace("/", " ")
    return _first_words(text.replace("<person>", "person"))


def _diff_prompt(text: str) -> str:
    return _first_words(_DIFF_PROMPT_SPACED.sub(" ", text.lower()))


_RULES: dict[str, Callable[[str], str]] = {
    "lpi": _lpi,
    "diff_prompt": _diff_prompt,
    "none": _collapse,
}
CAPTION_RULES = tuple(_RULES)


def clean_caption(text: str, rule: str) -> str:
    """Clean one caption.

    `rule`: "lpi" (Yan et al. 2024) lower-cases, deletes punctuation, turns `-` and `/` into
    spaces, `<person>` into `person` and keeps 30 words; "diff_prompt" (Yan et al. 2025)
    lower-cases, turns punctuation but commas, apostrophes and question marks into spaces and keeps
    30 words; "none" only collapses white space.
    Returns: the cleaned text, which may be empty: the caller knows what to name in its error.
    Raises: ConfigError for an unknown rule.
    """
    if rule not in _RULES:
        raise ConfigError(
            f"benchmark.options.caption_rule: {rule!r} is unknown: choose one of "
            f"{', '.join(CAPTION_RULES)}"
        )
    return _RULES[rule](text)


def checked_caption(text: str, rule: str, where: str) -> str:
    """Clean one caption or expression that stands at `where` in a data set's files.

    Raises: DataError naming the place if nothing is left of it, ConfigError as `clean_caption`.
    """
    cleaned = clean_caption(text, rule)
    if not cleaned:
        raise DataError(
            f"{where}: the text {text!r} is empty after cleaning by rule {rule!r}: correct or "
            "remove the annotation",
            "empty text",
        )
    return cleaned


def cleaned_spans(text: str, spans: Iterable[Span], rule: str) -> list[Span]:
    """Where spans of a text lie in `clean_caption(text, rule)`.

    Spans are begin and end (not included) in characters; a span's words may lose characters inside
    and at its ends. One of which nothing is left is dropped.
    """
    cleaned = clean_caption(text, rule)
    # No rule makes up or moves a character that is no space: each one kept is found by going on
    # in the text from where the last one was. Lower-casing may make several of one.
    there = iter([(c.casefold(), at) for at, one in enumerate(text) for c in one.lower()])
    origins: dict[int, int] = {}  # of a kept character, by its place
    for place, one in enumerate(cleaned):
        for c in one.lower() if one != " " else "":
            origins[place] = next(at for other, at in there if other == c.casefold())
    found = []
    for begin, end in spans:
        places = [place for place, origin in origins.items() if begin <= origin < end]
        if places:
            found.append((places[0], places[-1] + 1))
    return found


def positive_spans(
    text: str, spans: Sequence[Span], rule: str, words: Counter[str]
) -> tuple[Span, ...]:
    """`cleaned_spans` of an expression; if none is left, all its words count.

    `words` counts expressions that have "spans", and those of which cleaning "lost" one.
    """
    kept = cleaned_spans(text, spans, rule)
    if kept:
        words["spans"] += 1
    if len(kept) < len(spans):
        words["lost"] += 1
    return tuple(kept)


def check_templates(templates: Sequence[str]) -> None:
    """Check what captions of classes are made of. Raises: ConfigError."""
    if not templates or not all("{}" in template for template in templates):
        raise ConfigError(
            f"benchmark.options.templates={list(templates)}: at least one is needed, each with "
            "{} where the class's name goes"
        )


def class_captions(templates: Sequence[str], name: str) -> list[str]:
    """Make a class's captions: one of each template, with its name for `{}`."""
    return [template.replace("{}", name) for template in templates]
