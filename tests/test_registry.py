"""A file adds a part by registering a name; a wrong name gets the nearest one."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from system.errors import ConfigError
from system.prompts.grounding_method import GROUNDING_METHODS
from system.prompts.method import METHODS
from system.registry import Registry

MakeRegistry = Callable[[dict[str, str]], Registry[str]]


@pytest.fixture
def make_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeRegistry]:
    """A registry over a package that is written to disk: module name -> what it registers."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(modules: dict[str, str]) -> Registry[str]:
        package = tmp_path / "shelf_of_parts"
        package.mkdir()
        (package / "__init__.py").write_text(
            "from system.registry import Registry\nSHELF = Registry('part', 'shelf_of_parts')\n"
        )
        for module, name in modules.items():
            (package / f"{module}.py").write_text(
                "from shelf_of_parts import SHELF\n"
                f"SHELF.register({name!r})({'made by ' + module!r})\n"
            )
        import shelf_of_parts  # type: ignore[import-not-found]

        shelf: Registry[str] = shelf_of_parts.SHELF
        return shelf

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "shelf_of_parts"]:
        del sys.modules[name]


def test_a_new_file_is_found_without_a_list(make_registry: MakeRegistry) -> None:
    shelf = make_registry({"first": "bolt", "second": "nut"})
    assert shelf.get("nut") == "made by second"
    assert list(shelf) == ["bolt", "nut"]


def test_modules_are_imported_only_at_the_first_look_up(make_registry: MakeRegistry) -> None:
    """Or one part's heavy import would slow down every command."""
    shelf = make_registry({"first": "bolt"})
    assert "shelf_of_parts.first" not in sys.modules
    assert shelf.get("bolt")
    assert "shelf_of_parts.first" in sys.modules


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
        make_registry({"first": "bolt", "second": "nut"}).get(asked)


def test_a_name_is_taken_once(make_registry: MakeRegistry) -> None:
    """Two files of one name: which one is used would depend on the order of import."""
    with pytest.raises(AssertionError, match="part 'bolt' is registered twice"):
        make_registry({"first": "bolt", "second": "bolt"}).get("bolt")


@pytest.mark.parametrize(
    ("name", "registry", "named"),
    [
        ("vpt", METHODS, "experiment=rec"),
        ("l2p", GROUNDING_METHODS, "experiment=demo"),
        ("linear_probe", GROUNDING_METHODS, "linear_probing"),
    ],
)
def test_a_method_of_the_other_kind_is_sent_where_it_belongs(
    name: str, registry: Registry[Any], named: str
) -> None:
    """Both kinds are chosen by method=NAME, so the wrong one is soon asked for."""
    with pytest.raises(ConfigError, match=named):
        registry.get(name)
