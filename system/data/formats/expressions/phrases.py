"""Phrases of a sentence that have boxes, as referring expressions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from system.data.prepare.captions import checked_caption, positive_spans
from system.data.shards.schema import Expression, Span

#: What a phrase with several boxes refers to: the one box that encloses them; each of them in turn;
#: or all of them, of which one is enough to hit.
PhraseBoxes = Literal["merge", "each", "any"]
#: What is read: the phrase alone, or the sentence that it stands in, of which its words name.
PhraseText = Literal["phrase", "sentence"]


@dataclass(frozen=True, slots=True)
class PhraseRules:
    """How a phrase becomes expressions, by the options of its data set."""

    boxes: PhraseBoxes
    text: PhraseText
    caption_rule: str


def phrase_expressions(
    sentence: str,
    spans: Sequence[Span],
    instances: Sequence[int],
    rules: PhraseRules,
    where: str,
    words: Counter[str],
) -> list[Expression]:
    """Make the expressions of one phrase: one for all of its boxes, or one for each.

    `spans` are the phrase's characters in the sentence, `instances` its boxes by their place in the
    image's row; in `words` is counted what becomes of the spans. Raises: DataError naming `where`
    for a text of which the caption rule leaves nothing.
    """
    rule = rules.caption_rule
    named: tuple[Span, ...] = ()
    if rules.text == "sentence":
        text = checked_caption(sentence, rule, where)
        named = positive_spans(sentence, spans, rule, words)
    else:
        text = checked_caption(" ".join(sentence[a:b] for a, b in spans), rule, where)
    if rules.boxes == "any":
        first, *others = instances
        return [Expression(first, text, named, tuple(others))]
    return [Expression(index, text, named) for index in instances]
