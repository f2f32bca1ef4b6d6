"""Expressions of which a grounder does not read what names their object, found before training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from system.data.shards.manifest import SplitHandle
from system.data.shards.split_objects import LeftOut, ReferredExpression
from system.errors import DataError
from system.grounders.grounder import Grounder
from system.objectives.grounding.chosen_expressions import (
    ChosenExpressions,
    chosen_expressions,
    expression_tokens,
)

_AT_ONCE = 1024  # expressions
#: By grounder and splits: a sweep checks many trial configs that read the same expressions.
_NOTES: dict[tuple[object, ...], tuple[str, ...]] = {}


@dataclass
class UnreadWords:
    """Expressions by what is not read of them, counted; the first few by name.

    `cut` have more tokens than the grounder's `context`, so that their end is not read; of `lost`
    ones that end holds all words that name the object. The spans of `no_word` cover no word at all:
    they are wrong. For `lost` and `no_word` nothing is found, as with GLIP's released code.
    """

    context: int
    cut: LeftOut = field(default_factory=LeftOut)
    lost: LeftOut = field(default_factory=LeftOut)
    no_word: LeftOut = field(default_factory=LeftOut)

    def counts(self) -> dict[str, int]:
        """The counts above 0, for the run's outcome."""
        counts = {
            "expressions_cut": self.cut.count,
            "expressions_with_object_cut": self.lost.count,
            "expressions_with_spans_of_no_word": self.no_word.count,
        }
        return {name: count for name, count in counts.items() if count}

    def notes(self) -> list[str]:
        """A line for each kind that there is."""
        found = []
        for of, what in (
            (
                self.no_word,
                "with spans that cover no word: nothing is found for them, as with GLIP's "
                "released code; correct the spans, or set grounder.positive_words=all",
            ),
            (
                self.lost,
                f"with an object that is named behind the grounder's {self.context} tokens: "
                "nothing is found for them, as with GLIP's released code; shorten the texts",
            ),
            (
                self.cut,
                f"longer than the grounder's {self.context} tokens: their end is not read",
            ),
        ):
            if of.count:
                found.append(f"{of.count:,} expressions {what}: {of.named}")
        return found


def unread_notes(
    grounder: Grounder, every: Sequence[tuple[SplitHandle, int | None]]
) -> tuple[str, ...]:
    """The notes on the expressions chosen of splits, so many of each; read once a process.

    Raises what `unread_words` and `chosen_expressions` raise.
    """
    key = (grounder.fingerprint, grounder.shape.context_length, grounder.spans_count, *every)
    if key not in _NOTES:
        chosen = (chosen_expressions(handle, most) for handle, most in every)
        _NOTES[key] = tuple(unread_words(grounder, chosen).notes())
    return _NOTES[key]


def unread_words(grounder: Grounder, every: Iterable[ChosenExpressions]) -> UnreadWords:
    """Look through chosen expressions; only those that may lack a word are split into tokens.

    Raises DataError naming task, split and row of an expression without any word.
    """
    found = UnreadWords(grounder.shape.context_length)
    for chosen in every:
        kept = [
            expression
            for expression in chosen.expressions
            if (expression.spans and grounder.spans_count)
            or _may_exceed(expression.text, found.context)
            or not any(map(str.isalnum, expression.text))
        ]
        for start in range(0, len(kept), _AT_ONCE):
            _look(grounder, chosen, kept[start : start + _AT_ONCE], found)
    return found


def _look(
    grounder: Grounder,
    chosen: ChosenExpressions,
    expressions: list[ReferredExpression],
    found: UnreadWords,
) -> None:
    counts = [0] * len(expressions)
    if any(_may_exceed(expression.text, found.context) for expression in expressions):
        counts = grounder.token_counts([expression.text for expression in expressions])
    positive = _tokens_of(grounder, chosen, expressions)
    for expression, count, named in zip(expressions, counts, positive, strict=True):
        name = _name(chosen, expression)
        if count > found.context:
            found.cut.add(name)
        if not named:
            (found.lost if count > found.context else found.no_word).add(name)


def _may_exceed(text: str, context: int) -> bool:
    """Whether a text might have more tokens: up to three a character (Korean), three around."""
    return 3 * len(text) + 3 > context


def _tokens_of(
    grounder: Grounder, chosen: ChosenExpressions, expressions: list[ReferredExpression]
) -> list[bool]:
    """Whether any token of each expression names its object."""
    try:
        tokens = expression_tokens(grounder, expressions)
    except DataError as error:
        for expression in expressions:
            try:
                expression_tokens(grounder, [expression])
            except DataError:
                raise DataError(f"{_name(chosen, expression)}: {error}", error.kind) from error
        raise
    if tokens.positive is None:
        return [True] * len(expressions)
    named: list[bool] = tokens.positive.any(dim=1).tolist()
    return named


def _name(chosen: ChosenExpressions, expression: ReferredExpression) -> str:
    text = expression.text if len(expression.text) <= 60 else f"{expression.text[:57]}..."
    spans = f", spans {[list(span) for span in expression.spans]}" if expression.spans else ""
    handle = chosen.handle
    return f"task {handle.task!r}, split {handle.split!r}, row {expression.row}: {text!r}{spans}"
