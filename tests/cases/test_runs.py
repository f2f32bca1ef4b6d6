"""What a user types and what lies on disk goes in; what cannot work is said before it is begun."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cases.conftest import Ended


@pytest.mark.parametrize(
    "word",
    [
        *("data_path=out/h=1", "data_path=out/a(b)", "data_path=out/x#1", "data_path=out/tilde~x"),
        *("data_path=out/äö", "data_path=out/a,b", "run_name=2024", "benchmark.tasks=[0,1]"),
        *("data_path=out/[bold]:smile:", "data_path=out/a b'c", "data_path=out/日本?&;"),
    ],
)
def test_a_plain_value_needs_no_quotes_of_hydra(
    case: Callable[[str], Path],
    promptide: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    word: str,
) -> None:
    root = case("same-caption-many-images") / "data"
    monkeypatch.chdir(root.parent)
    words = ["benchmark=folder", "benchmark.name=case", f"benchmark.options.root={root}"]
    printed = promptide("prepare", *words, word).passed()
    key, _, value = word.partition("=")
    place = Path(value if key == "data_path" else "data") / "case"
    assert (place / "manifest.json").exists()
    assert str(place) in printed
