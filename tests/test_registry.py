"""A file adds a part under its module's name; a wrong name gets the nearest one."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from system.errors import ConfigError
from system.methods.base import Objective, method_class
from system.registry import Registry

MakeRegistry = Callable[[dict[str, str]], Registry[str]]


@pytest.fixture
def make_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeRegistry]:
    """A registry over a package that is written to disk: module -> its source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(modules: dict[str, str]) -> Registry[str]:
        package = tmp_path / "shelf_of_parts"
        (package / "inner").mkdir(parents=True)
        for folder in (package, package / "inner"):
            (folder / "__init__.py").write_text("")
        for module, text in modules.items():
            (package / f"{module}.py").write_text(text)
        return Registry("part", "shelf_of_parts", "PART")

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "shelf_of_parts"]:
        del sys.modules[name]


BOLT, NUT = "PART = 'a bolt'\n", "PART: str = 'a nut'\n"


def test_a_new_file_is_found_without_a_list(make_registry: MakeRegistry) -> None:
    shelf = make_registry({"bolt": BOLT, "inner/nut": NUT, "tools": "part = PARTS = 1\n"})
    assert shelf.get("nut") == "a nut"
    assert list(shelf) == ["bolt", "nut"]
    assert "bolt" in shelf
    assert "tools" not in shelf


def test_listing_imports_nothing_and_a_look_up_one_module(make_registry: MakeRegistry) -> None:
    """Or one part's heavy import would slow down every command."""
    shelf = make_registry({"bolt": BOLT, "inner/nut": NUT})
    assert list(shelf) == ["bolt", "nut"]
    assert shelf.get("bolt") == "a bolt"
    assert "shelf_of_parts.bolt" in sys.modules
    assert "shelf_of_parts.inner.nut" not in sys.modules


def test_a_file_that_cannot_be_imported_breaks_itself_alone(make_registry: MakeRegistry) -> None:
    """Or a user's half-written method would stop every run."""
    shelf = make_registry({"bolt": BOLT, "nut": f"import no_such_module\n{NUT}"})
    assert shelf.get("bolt") == "a bolt"
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        shelf.get("nut")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("bolts", r"unknown part 'bolts'; did you mean 'bolt'\? Known: bolt, nut\."),
        ("zzz", r"unknown part 'zzz'\. Known: bolt, nut\."),
        (3, r"unknown part 3\. Known: bolt, nut\."),
    ],
)
def test_an_unknown_name_tells_the_known_ones(
    make_registry: MakeRegistry, asked: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_registry({"bolt": BOLT, "nut": NUT}).get(asked)


def test_a_name_is_taken_once(make_registry: MakeRegistry) -> None:
    """Two files of one name: which one is used would depend on the order of the files."""
    with pytest.raises(AssertionError, match="part 'bolt' exists twice"):
        make_registry({"bolt": BOLT, "inner/bolt": BOLT}).get("bolt")


@pytest.mark.parametrize(
    ("name", "objective", "named"),
    [
        ("vpt", "retrieval", "experiment=rec; .*takes one of coda_prompt, dcp"),
        ("dualprompt", "grounding", "experiment=demo; .*takes one of clip_adapter, cocoop, coop"),
        ("linear_probe", "grounding", "linear_probing"),
    ],
)
def test_a_method_of_the_other_kind_is_sent_where_it_belongs(
    name: str, objective: Objective, named: str
) -> None:
    """Both kinds are chosen by method=NAME, so the wrong one is soon asked for."""
    with pytest.raises(ConfigError, match=named):
        method_class(name, objective)
