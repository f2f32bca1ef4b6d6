"""What a user types goes in unchanged, whatever Hydra's grammar makes of such characters."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system.config.compose import compose, composed_values
from system.config.overrides import override
from system.config.schema import ExperimentConfig
from system.errors import ConfigError

PLAIN = [
    *("out/h=1", "out/a(b)", "out/x#1", "out/tilde~x", "out/äö", "out/a,b", "a b", "it's", '"a'),
    *("[a]", "{a: b}", "a}", "C:\\x", "\\", "a\\'", "a!;&<>^`b", "日本", "${", "a${b", "x ", "-"),
    *("~x", "2024", "007", "1.10", "1_000", "1e3", "true", "True", "None", "NULL", "nan", "-1"),
    *("choice(a)", "a=[b", "*.tar", "?", "a@b", "+1", "1:2", "2024-01-01"),
]


@pytest.mark.parametrize("text", PLAIN)
def test_a_text_is_taken_as_it_stands(text: str) -> None:
    """A path that works everywhere else must not need two levels of quotes here."""
    config = compose([f"backbone.path={text}", f"data_path={text}"])
    assert config.backbone.path == text
    assert config.data_path == str((Path.cwd() / text).absolute())


@settings(deadline=None, max_examples=25)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
def test_any_printable_text_goes_in_unchanged_or_is_refused_by_one_line(text: str) -> None:
    """Nobody can list the characters of other people's folders."""
    if text[0] in "'\"" or "${" in text:  # may be Hydra's quotes and interpolations
        with suppress(ConfigError):
            compose([f"benchmark.dataset={text}"])
        return
    if text in ("null", "???"):
        with pytest.raises(ConfigError, match=r"^[^\n]*benchmark\.dataset[^\n]*$"):
            compose([f"benchmark.dataset={text}"])
        return
    assert compose([f"benchmark.dataset={text}"]).benchmark.dataset == text
    if "/" in text or text.startswith("."):
        with pytest.raises(ConfigError, match=r"^run_name=.* must be a plain folder name$"):
            compose([f"run_name={text}"])
        return
    assert compose([f"run_name={text}"]).run_name == text


@settings(deadline=None, max_examples=25)
@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.from_regex("[a-z]+", fullmatch=True), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_a_written_value_is_read_back(value: Any) -> None:
    """A sweep's trial, or a job on a cluster, would learn with another value than it records."""
    if "???" not in repr(value):
        assert composed_values([f"++{override('method.probe', value)}"])["method"]["probe"] == value


@pytest.mark.parametrize(
    ("written", "tasks"),
    [
        ("[0,1]", ("0", "1")),
        ("[007, 1_0, a b, it's]", ("007", "1_0", "a b", "it's")),
        ("['x, y',\"z\",small (a,b)]", ("x, y", "z", "small (a,b)")),
        ("[a(b,c]", ("a(b", "c")),
        ("[äpfel,null,true]", ("äpfel", "null", "true")),
        ("[]", ()),
        ("null", None),
        ("[${method.name},b]", ("lpi", "b")),
    ],
)
def test_a_list_of_texts_is_one(written: str, tasks: tuple[str, ...] | None) -> None:
    """Folders called 0 and 1 are tasks called 0 and 1."""
    assert compose([f"benchmark.tasks={written}"]).benchmark.tasks == tasks


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("data_path='a b'", "data_path", "a b"),
        ("run_name=${method.name}-x", "run_name", "lpi-x"),
        ("run_name=${method.name}=x", "run_name", "lpi=x"),
        ("adapters=null", "adapters", None),
        ("run_name=", "run_name", ""),
        ("method.rank=2", "method", 2),
    ],
)
def test_what_hydra_means_stays(word: str, key: str, value: Any) -> None:
    """Scripts that quote for Hydra already go on as before."""
    found = composed_values([word])[key]
    assert (found["rank"] if key == "method" else found) == value


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("root=2024", "2024"),
        ("root=data=1", "data=1"),
        ("captions=1.10", "1.10"),
        ("tasks=[0,1]", ["0", "1"]),
        ("columns.caption=0", "0"),
        ("columns={file_name:0,caption:título}", {"file_name": "0", "caption": "título"}),
        ("shares={val:0.2,test:0.2,seed:1}", {"val": 0.2, "test": 0.2, "seed": 1}),
        ("shares.val=0.25", 0.25),
    ],
)
def test_a_dataset_s_options_have_the_types_of_its_reader(option: str, value: Any) -> None:
    """A data set in a folder called 2024, whose captions are in a column called 0."""
    words = ["benchmark=folder", f"benchmark.options.{option}"]
    found: Any = composed_values(words)["benchmark"]["options"]
    for part in option.partition("=")[0].split("."):
        found = found[part]
    assert found == value if not isinstance(value, dict) else value.items() <= found.items()


def test_names_of_sources_are_texts() -> None:
    assert composed_values(["benchmark.sources=[2024,a]"])["benchmark"]["name"] == "2024+a"


def test_a_file_s_texts_are_as_written(tmp_path: Path) -> None:
    """YAML reads 007 as 7 and 1_000 as 1000."""
    file = tmp_path / "config.yaml"
    values = compose(["benchmark=folder"]).to_dict()
    file.write_text(_yaml(values).replace("run_name: folder-lpi-seed0", "run_name: 007"))
    assert compose(["data_path=a=b"], str(file)).run_name == "007"
    file.write_text(_yaml(values).replace("root: null", "root: 1_000"))
    config = compose(["benchmark.tasks=[1,2]"], str(file))
    assert config.benchmark.options["root"] == "1_000"
    assert config.benchmark.tasks == ("1", "2")


def test_what_cannot_be_read_says_how_to_quote_it() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["stage.epochs=[a"])
    advised = str(caught.value).partition("write ")[2]
    (word,) = shlex.split(advised)
    with pytest.raises(ConfigError, match=r"stage\.epochs='\[a' must be of type int"):
        compose([word])


def _yaml(values: dict[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(ExperimentConfig.from_dict(values).to_dict())
