"""Caption cleaning by the rules of the two papers."""

import re
from collections.abc import Callable, Sequence

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
