"""Adapters and stored features belong to one backbone: everything features depend on tells it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from system.backbones.tower_pair import TowerPair
from tests.backbones.edited_checkpoint import Edit, edited, in_json
from tests.backbones.small_backbones import KINDS, LAYERS, WORDS, Kind


def test_a_copy_elsewhere_is_the_same_backbone(
    kind: Kind, checkpoint: Path, tmp_path: Path, pair: TowerPair
) -> None:
    """An adapter must load on a copy of its backbone."""
    assert kind.load(str(edited(checkpoint, tmp_path))).fingerprint == pair.fingerprint


def test_saving_again_is_the_same_backbone(kind: Kind, tmp_path: Path, pair: TowerPair) -> None:
    """`save_pretrained` of another version adds and orders settings otherwise."""
    for part in (pair.model, pair.tokenizer, pair.image_processor):
        part.save_pretrained(tmp_path)
    assert kind.load(str(tmp_path)).fingerprint == pair.fingerprint


def test_use_does_not_change_it(kind: Kind, checkpoint: Path, pair: TowerPair) -> None:
    used = kind.load(str(checkpoint))
    used.tokenize(["a red dog"], 2)
    used.tokenizer(["a dog"], padding="max_length", max_length=9, truncation=True)
    assert used.fingerprint == pair.fingerprint


@pytest.mark.parametrize(
    "edit",
    [
        in_json("config.json", "vision_config", num_attention_heads=4),
        in_json("config.json", "text_config", num_attention_heads=4),
        in_json("config.json", "text_config", hidden_act="relu"),
        in_json("config.json", "vision_config", layer_norm_eps=1e-3),
        in_json("preprocessor_config.json", image_mean=[0.1, 0.2, 0.3]),
        in_json("preprocessor_config.json", resample=2),
        in_json("tokenizer.json", normalizer=None),
        in_json("tokenizer.json", pre_tokenizer={"type": "WhitespaceSplit"}),
        in_json("tokenizer_config.json", pad_token="<unk>"),
    ],
)
def test_what_changes_features_beside_weights_changes_it(
    kind: Kind, checkpoint: Path, tmp_path: Path, pair: TowerPair, edit: Edit
) -> None:
    """The weights fit many head counts and tokenizers, and mean nothing under another."""
    assert kind.load(str(edited(checkpoint, tmp_path, edit))).fingerprint != pair.fingerprint


def test_another_vocabulary_changes_it(kind: Kind, tmp_path: Path, pair: TowerPair) -> None:
    """The same weights with two words exchanged: other ids for every text."""
    words = [WORDS[1], WORDS[0], *WORDS[2:]]
    exchanged = kind.load(str(kind.write(tmp_path, words, layers=LAYERS)))
    ours = exchanged.model.state_dict()
    assert all(torch.equal(ours[n], value) for n, value in pair.model.state_dict().items())
    assert exchanged.fingerprint != pair.fingerprint


def test_the_least_change_of_a_weight_changes_it(
    kind: Kind, checkpoint: Path, pair: TowerPair
) -> None:
    changed = kind.load(str(checkpoint))
    with torch.no_grad():
        changed.model.vision_model.post_layernorm.weight[3] += 1e-6
    assert changed.fingerprint != pair.fingerprint


def test_another_process_finds_the_same(tmp_path: Path) -> None:
    """An order that followed the hashes of strings would make a stranger of every restart."""
    program = (
        "import sys\n"
        "from system.backbones.dual_encoder import BACKBONES\n"
        "for name, path in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    sys.stdout.write(BACKBONES.get(name)(path).fingerprint + '\\n')\n"
    )
    arguments, expected = [], []
    for kind in KINDS:
        path = str(kind.write(tmp_path / kind.name, WORDS))
        arguments += [kind.name, path]
        expected.append(kind.load(path).fingerprint)
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert found.stdout.split() == expected
