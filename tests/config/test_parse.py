"""Plain mappings become frozen dataclasses, and every mistake names its field."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from system.config.parse import parse_dataclass
from system.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float
    steps: int = 3

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    mode: Literal["fast", "slow", "true"] = "fast"
    flag: bool = False
    sizes: tuple[int, ...] = ()
    note: str | None = None
    weights: dict[str, float] = field(default_factory=dict)
    anything: Any = None
    scale: float | tuple[float, ...] | None = 1.0


def parse(**changes: Any) -> Outer:
    return parse_dataclass(Outer, {"name": "a", "inner": {"rate": 0.5}} | changes, "outer")


def test_every_kind_of_field_is_read() -> None:
    """A field that is read wrongly trains something else than was asked for."""
    parsed = parse(
        inner={"rate": 1, "steps": 2},
        mode="slow",
        flag=True,
        sizes=[1, 2],
        note="x",
        weights={"a": 1},
        anything=[{"free": 1}],
    )
    assert parsed == Outer("a", Inner(1.0, 2), "slow", True, (1, 2), "x", {"a": 1.0}, [{"free": 1}])
    assert isinstance(parsed.inner.rate, float)
    assert isinstance(parsed.weights["a"], float)


@pytest.mark.parametrize(
    ("given", "read"), [(2, 2.0), ([1, 2], (1.0, 2.0)), ((1,), (1.0,)), ([], ()), (None, None)]
)
def test_a_number_or_a_list_of_them_is_read_as_it_was_written(given: Any, read: Any) -> None:
    """A list read as a number, or a whole number left as one, is another experiment."""
    parsed = parse(scale=given).scale
    assert parsed == read
    assert all(type(one) is float for one in (parsed if isinstance(parsed, tuple) else ())), parsed
    assert read is None or type(parsed) is type(read)


def test_a_choice_called_true_can_be_given_without_quotes() -> None:
    """`method.mask_source=true` reaches us as a boolean."""
    assert parse(mode=True).mode == parse(mode="true").mode == "true"
    with pytest.raises(ConfigError, match=r"mode=False is not one of: fast, slow, true"):
        parse(mode=False)


def test_defaults_and_null_are_kept() -> None:
    assert parse(note=None) == Outer("a", Inner(0.5))


def test_a_finished_part_is_taken_as_it_is() -> None:
    inner = Inner(0.25)
    assert parse(inner=inner).inner is inner


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nam": 1}, r"unknown key outer\.nam; did you mean outer\.name\? Known: .*inner"),
        ({"qqq": 1}, r"unknown key outer\.qqq\. Known: "),
        ({"inner": {"rate": 1, "stepz": 2}}, r"outer\.inner\.stepz; did you mean outer\.inner"),
        ({"inner": {}}, r"outer\.inner\.rate is missing"),
        ({"inner": 3}, r"outer\.inner=3 must be a mapping"),
        ({"inner": {"rate": float("nan")}}, r"outer\.inner\.rate is NaN"),
        ({"note": "x", "sizes": [1, None]}, r"outer\.sizes\[1\] is not set"),
        ({"inner": {"rate": "x"}}, r"outer\.inner\.rate='x' must be of type float"),
        ({"inner": {"rate": True}}, r"outer\.inner\.rate=True must be of type float"),
        ({"inner": {"rate": 1, "steps": 1.5}}, r"outer\.inner\.steps=1\.5 must be of type int"),
        ({"inner": {"rate": 1, "steps": True}}, r"outer\.inner\.steps=True must be of type int"),
        ({"inner": {"rate": 1, "steps": 0}}, r"outer\.inner: steps=0 must be at least 1"),
        ({"mode": "medium"}, r"outer\.mode='medium' is not one of: fast, slow"),
        ({"flag": 1}, r"outer\.flag=1 must be of type bool"),
        ({"sizes": 3}, r"outer\.sizes=3 must be a list"),
        ({"sizes": [1, "b"]}, r"outer\.sizes\[1\]='b' must be of type int"),
        ({"note": 3}, r"outer\.note=3 must be of type str"),
        ({"name": None}, r"outer\.name is not set; add outer\.name=VALUE"),
        ({"weights": [1]}, r"outer\.weights=\[1\] must be a mapping"),
        ({"weights": {"a": "b"}}, r"outer\.weights\.a='b' must be of type float"),
        ({"scale": "b"}, r"outer\.scale='b' .* outer\.scale takes a float or a list of float"),
        ({"scale": ["b"]}, r"outer\.scale\[0\]='b' .* takes a float or a list of float"),
        ({"scale": [[1]]}, r"outer\.scale\[0\]=\[1\] must be of type float"),
    ],
)
def test_a_mistake_is_one_error_that_names_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(**changes)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match=r"outer\.name is missing"):
        parse_dataclass(Outer, {"inner": {"rate": 1}}, "outer")
