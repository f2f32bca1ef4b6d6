"""A GLIP is read from its published file, imported, or refused with one clear line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from system import app
from system.config.schema import GrounderConfig
from system.errors import ConfigError, PromptideError
from system.grounders.entries import Entries
from system.grounders.glip.glip import load_glip
from system.grounders.glip.glip_files import ALIGNMENT
from system.grounders.glip.published_checkpoint import load_published
from system.grounders.glip.published_sizes import PublishedOptions
from system.grounders.grounder import GroundingBatch, load_grounder
from tests.grounders.published_glip import (
    full_keys,
    named,
    small_keys,
    small_vocabulary,
    write_published,
    write_vocabulary,
)

TABLE = "backbone.body.layers.0.blocks.0.attn.relative_position_bias_table"
INDEX = "backbone.body.layers.1.blocks.0.attn.relative_position_index"
ANCHORS = "rpn.anchor_generator.cell_anchors.2"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return write_vocabulary(tmp_path / "bert", small_vocabulary())


@pytest.fixture
def options(tokenizer: Path) -> PublishedOptions:
    return PublishedOptions(str(tokenizer), text_heads=4)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return named(small_keys())


@pytest.fixture
def file(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    return write_published(tmp_path / "glip.pth", weights)


Change = Callable[[dict[str, Tensor]], object]


def _missing(state: dict[str, Tensor]) -> None:
    del state["backbone.fpn.fpn_layer3.bias"]


def _left_over(state: dict[str, Tensor]) -> None:
    state["prompts.0.dim_1_share"] = torch.zeros(9, 4)


def _misshapen(state: dict[str, Tensor]) -> None:
    state["rpn.head.scales.1.scale"] = torch.zeros(2)


def _another_window(state: dict[str, Tensor]) -> None:
    state[INDEX] = state[INDEX].flip(0)


def _other_anchors(state: dict[str, Tensor]) -> None:
    state[ANCHORS] = state[ANCHORS] * 2


def _three_anchors(state: dict[str, Tensor]) -> None:
    state[ANCHORS] = state[ANCHORS].repeat(3, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_missing, "does not fit; missing: backbone.fpn.fpn_layer3.bias"),
        (_left_over, "does not fit; left over: prompts.0.dim_1_share"),
        (_misshapen, "of another shape: rpn.head.scales.1.scale (2,) instead of (1,)"),
        (_another_window, f"{INDEX} has other values"),
        (_other_anchors, f"{ANCHORS} has other values"),
        (_three_anchors, f"{ANCHORS} has other values"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path,
    weights: dict[str, Tensor],
    options: PublishedOptions,
    change: Change,
    says: str,
) -> None:
    """By their published names: these are what a user can look up."""
    change(weights)
    file = write_published(tmp_path / "other.pth", weights)
    with pytest.raises(ConfigError) as error:
        load_published(file, options, str(file))
    assert str(error.value).startswith(str(file))
    assert says in str(error.value)


def test_what_has_no_effect_is_left_out(
    tmp_path: Path, file: Path, weights: dict[str, Tensor], options: PublishedOptions
) -> None:
    """What other versions of the libraries save, or do not save, changes nothing."""
    bert = "language_backbone.body.model"
    more = {
        f"{bert}.embeddings.position_ids": torch.arange(512)[None],
        f"{bert}.pooler.dense.weight": torch.ones(48, 48),
        "rpn.resizer.fc.bias": torch.ones(3),
    }
    fewer = {name: value for name, value in weights.items() if name not in (INDEX, ANCHORS)}
    other = write_published(tmp_path / "other.pth", {**fewer, **more})
    found, expected = (
        load_published(each, options, str(each)).network.state_dict() for each in (other, file)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_weights_without_a_dict_around_and_without_the_prefix_are_read(
    tmp_path: Path, weights: dict[str, Tensor], options: PublishedOptions
) -> None:
    """As someone saves a model that one GPU trained."""
    file = tmp_path / "plain.pth"
    torch.save(weights, file)
    scales = load_published(file, options, "it").network.predictions.scales
    assert scales.tolist() == [float(weights[f"rpn.head.scales.{i}.scale"]) for i in range(5)]


def test_weights_in_half_precision_are_computed_with_in_single(
    tmp_path: Path, weights: dict[str, Tensor], options: PublishedOptions
) -> None:
    half = {name: v.half() if v.is_floating_point() else v for name, v in weights.items()}
    anchors = {name: v.float() for name, v in half.items() if "cell_anchors" in name}
    file = write_published(tmp_path / "half.pth", half | anchors)
    parameters = list(load_published(file, options, "it").network.parameters())
    assert {value.dtype for value in parameters} == {torch.float32}


class Harmful:
    """What pickle would call at loading."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code of the file ran')",))


def _torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _with_code(file: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "cfg": Harmful()}, file)


def _of_clip(file: Path) -> None:
    torch.save({"visual.proj": torch.zeros(2, 2), "logit_scale": torch.zeros(())}, file)


def _a_page(file: Path) -> None:
    file.write_text("<html>404</html>", "utf-8")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_torn, "is damaged: its end is missing"),
        (_with_code, "could run code"),
        (_of_clip, "is no GLIP in the released naming"),
        (_a_page, "is damaged"),
    ],
)
def test_a_file_that_is_no_glip_is_one_line_and_nothing_is_written(
    tmp_path: Path,
    file: Path,
    tokenizer: Path,
    change: Callable[[Path], None],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(file)
    folder = tmp_path / "own"
    assert app.main(["import", "glip", str(file), str(folder), f"tokenizer={tokenizer}"]) == 2
    shown = capsys.readouterr().err.strip()
    assert says in shown
    assert str(file) in shown
    assert len(shown.splitlines()) == 1
    assert not folder.exists()


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CASED = '{"tokenizer_class": "BertTokenizer", "do_lower_case": false}'


@pytest.mark.parametrize(
    ("words", "config", "says"),
    [
        ([*SPECIAL, *(f"a{i}" for i in range(44))], None, "has 49 tokens but the model embeds 48"),
        ([*SPECIAL, "a", "A"], CASED, "no tokenizer of an uncased BERT: it keeps capitals"),
        ([*SPECIAL[1:], "[PAD]", "a"], None, "its padding is not token 0"),
    ],
)
def test_a_tokenizer_of_other_weights_is_refused(
    tmp_path: Path, file: Path, words: list[str], config: str | None, says: str
) -> None:
    """Its ids would stand for other words, and every box would be of something else."""
    folder = write_vocabulary(tmp_path / "other", words)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(config, "utf-8")
    with pytest.raises(ConfigError, match=says):
        load_published(file, PublishedOptions(str(folder), text_heads=4), "it")


def test_a_tokenizer_that_cannot_be_fetched_says_what_to_give(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster without the internet this is the first thing that happens."""

    def fetch(source: str) -> None:
        assert source == "bert-base-uncased"
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fetch)
    with pytest.raises(ConfigError) as error:
        load_published(file, PublishedOptions(text_heads=4), str(file))
    message = str(error.value)
    assert "(We couldn't connect to the hub)" in message
    assert "grounder.tokenizer=DIRECTORY, of an import tokenizer=DIRECTORY" in message
    nowhere = PublishedOptions("./nowhere", text_heads=4)  # and not asked of the hub
    with pytest.raises(ConfigError, match=r"tokenizer \./nowhere is no directory; give"):
        load_published(file, nowhere, str(file))


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A file of whose BERT nobody has to say the attention heads."""
    return write_published(tmp_path / "wide.pth", named(small_keys(text_width=64)))


def test_an_imported_one_is_the_file_itself(
    tmp_path: Path, wide: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adapters that were learned on the one are used on the other."""
    folder = tmp_path / "own"
    assert app.main(["import", "glip", str(wide), str(folder), f"tokenizer={tokenizer}"]) == 0
    shown = capsys.readouterr().out
    assert "GLIP: Swin of 24 channels and 8 blocks" in shown
    assert f"grounder=glip_t_a grounder.path={folder}" in shown
    from_file = load_grounder(GrounderConfig("glip", str(wide), tokenizer=str(tokenizer)))
    from_folder = load_grounder(GrounderConfig("glip", str(folder)))
    assert from_file.fingerprint == from_folder.fingerprint
    for grounder in (from_file, from_folder):  # or the CPU may round in another order
        assert {value.data_ptr() % ALIGNMENT for value in grounder.parameters()} == {0}
    batch = GroundingBatch(
        torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)),
        from_file.tokenize(["the black dog", "a man"]),
    )
    expected, found = (each.ground(batch, Entries()) for each in (from_file, from_folder))
    assert len(expected[0].boxes) > 0
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)


def test_options_of_an_import_are_kept(
    tmp_path: Path, file: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "own"
    words = [f"tokenizer={tokenizer}", "text_heads=4", "norm_groups=8", "upsampling=nearest"]
    assert app.main(["import", "glip", str(file), str(folder), *words]) == 0
    config = load_glip(str(folder)).network.config
    assert config.text.num_attention_heads == 4
    assert (config.head.norm_groups, config.head.upsampling) == (8, "nearest")
    assert app.main(["import", "glip", str(file), str(folder), *words]) == 2
    assert "holds files already" in capsys.readouterr().err


def test_a_directory_has_its_own_tokenizer(tmp_path: Path, wide: Path, tokenizer: Path) -> None:
    """Another one would go unused, or stand for other words."""
    assert (
        app.main(["import", "glip", str(wide), str(tmp_path / "own"), f"tokenizer={tokenizer}"])
        == 0
    )
    config = GrounderConfig("glip", str(tmp_path / "own"), tokenizer=str(tokenizer))
    with pytest.raises(ConfigError, match=r"grounder\.tokenizer=.*has its own tokenizer"):
        load_grounder(config)


def test_a_path_that_is_not_there_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no directory and no file.*glip_a_tiny_o365\.pth"):
        load_glip(str(tmp_path / "nothing.pth"))


def test_a_torn_file_is_an_error_of_ours_where_a_run_loads_it(wide: Path, tokenizer: Path) -> None:
    _torn(wide)
    with pytest.raises(PromptideError, match=r"wide\.pth is damaged"):
        load_grounder(GrounderConfig("glip", str(wide), tokenizer=str(tokenizer)))


LOADING = """
import resource, sys
from system.config.schema import GrounderConfig
from system.grounders.grounder import (load_grounder)
from transformers import BertModel, BertTokenizerFast, SwinBackbone  # no part of what is measured

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

before = anonymous()
grounder = load_grounder(GrounderConfig("glip", sys.argv[1], tokenizer=sys.argv[2]))
print(sum(value.numel() for value in grounder.parameters()), anonymous() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own figures")
def test_the_whole_glip_t_a_is_mapped_from_its_file(tmp_path: Path) -> None:
    """Held twice or three times, it would not fit beside the other workers of a small machine."""
    file = write_published(tmp_path / "glip_a_tiny_o365.pth", named(full_keys()))
    tokenizer = write_vocabulary(tmp_path / "bert", small_vocabulary())
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(file), str(tokenizer)],
        capture_output=True,
        check=True,
        text=True,
    )
    parameters, kilobytes = map(int, done.stdout.split())
    assert parameters == 151_409_966
    assert kilobytes * 1024 < 0.25 * 4 * parameters
