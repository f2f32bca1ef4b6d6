"""Contrastive pre-training of a small CLIP on the embedded benchmark's web scenes.

It runs once; its result ships with the package (`system/backbones/tiny_clip`) in half precision.
Loss: symmetric InfoNCE over a batch with a learned temperature (Radford et al. 2021, "Learning
transferable visual models from natural language supervision", figure 3).

Legend: B batch, T tokens.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy, normalize

from system.backbones.pretrain_loop import CHECKPOINT, Progress, train, update, write_json
from system.data.embedded.pictograms import Catalogue, catalogue
from system.data.embedded.scene_captions import vocabulary
from system.data.embedded.scenes import SIZE
from system.data.embedded.web_scenes import WebHabit, web_scene
from system.errors import ConfigError

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

# The scenes are light: CLIP's own mean would leave them far from zero mean.
IMAGE_MEAN, IMAGE_STD = 0.82, 0.25
_START_SCALE, _MOST_SCALE = 14.0, 100.0  # temperature: CLIP's first and largest logit scale


@dataclass(frozen=True)
class PretrainConfig:
    """Size of the model and recipe of its pre-training; `seed` fixes everything."""

    seed: int = 0
    patch_size: int = 8
    width: int = 128
    mlp_width: int = 384
    vision_layers: int = 4
    text_layers: int = 3
    heads: int = 4
    context: int = 32
    pictograms_per_task: int = 32
    steps: int = 3000
    batch_size: int = 192
    learning_rate: float = 1e-3
    last_rate_share: float = 0.02
    weight_decay: float = 0.05
    warmup_steps: int = 50
    simple_share_of_steps: float = 0.35  # easy scenes fade out over this share of the steps
    checkpoint_every: int = 100
    habit: WebHabit = field(default_factory=WebHabit)

    def __post_init__(self) -> None:
        if SIZE % self.patch_size:
            raise ConfigError(
                f"pretrain.patch_size={self.patch_size} does not divide the scenes' {SIZE} pixels"
            )
        if self.width % self.heads:
            raise ConfigError(f"pretrain.width={self.width} is no multiple of heads={self.heads}")


def build_tokenizer(words: list[str], context: int) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that puts <bos> before and <eos> after a text.

    <eos> has the largest id and it is not 2, the one for which transformers' CLIP pools by the
    rule of its first release.
    """
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(["<pad>", "<bos>", "<unk>", *words, "<eos>"])}
    # Tokens of a vocabulary, which a search for passwords takes for some.
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))  # noqa: S106  # nosec B106
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        special_tokens=[("<bos>", ids["<bos>"]), ("<eos>", ids["<eos>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,  # nosec B106
        bos_token="<bos>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        model_max_length=context,
    )


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """The untrained model; the global generator is left as it was found."""
    from transformers import CLIPModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = CLIPModel(_clip_config(config, tokenizer))
    model.logit_scale.data.fill_(math.log(_START_SCALE))
    return model


def _clip_config(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> CLIPConfig:
    from transformers import CLIPConfig

    tower = {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_attention_heads": config.heads,
    }
    return CLIPConfig(
        vision_config={
            **tower,
            "image_size": SIZE,
            "patch_size": config.patch_size,
            "num_hidden_layers": config.vision_layers,
        },
        text_config={
            **tower,
            "num_hidden_layers": config.text_layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": config.context,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=config.width,
    )


def web_batch(
    config: PretrainConfig, pictograms: Catalogue, step: int
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Pictures (B, SIZE, SIZE, 3) and captions of one step, from its own random numbers."""
    # The benchmark seeds with four numbers, the last not zero: no scene is shared.
    rng = np.random.default_rng([config.seed + 1, step])
    simple = max(0.0, 1 - step / (config.simple_share_of_steps * config.steps))
    drawn = [web_scene(rng, pictograms, simple, config.habit) for _ in range(config.batch_size)]
    return np.stack([scene.pixels for scene, _ in drawn]), [caption for _, caption in drawn]


def contrastive_step(
    model: CLIPModel, optimizer: torch.optim.Optimizer, pixels: torch.Tensor, ids: torch.Tensor
) -> float:
    """One update from pixels (B, 3, H, W) and token ids (B, T); returns the loss before it."""
    images = normalize(model.get_image_features(pixels).pooler_output, dim=-1)
    texts = normalize(model.get_text_features(ids).pooler_output, dim=-1)
    logits = model.logit_scale.exp() * images @ texts.T  # (B, B)
    target = torch.arange(len(logits))
    loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    before = update(model, optimizer, loss)
    model.logit_scale.data.clamp_(max=math.log(_MOST_SCALE))
    return before


def pretrain(
    config: PretrainConfig,
    output_dir: Path,
    progress: Progress | None = None,
) -> None:
    """Pre-train a CLIP and write it as `from_pretrained` reads it.

    Goes on from the checkpoint in `output_dir` if there is one, with the same result as without
    the interruption; the checkpoint is removed at the end. `progress` gets the finished steps, all
    steps and the loss. Raises StorageError for a checkpoint of another recipe.
    """
    pictograms = catalogue(config.pictograms_per_task)
    tokenizer = build_tokenizer(vocabulary(pictograms), config.context)
    model = build_model(config, tokenizer)

    def make(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        pictures, captions = web_batch(config, pictograms, step)
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        # Padding follows <eos>, where a causal tower's feature is read: it needs no mask.
        ids = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")["input_ids"]
        return (pixels - IMAGE_MEAN) / IMAGE_STD, ids

    def step_on(
        optimizer: torch.optim.Optimizer, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> float:
        return contrastive_step(model, optimizer, *batch)

    loss = train(model, config, output_dir, make, step_on, progress)
    export(output_dir, model, tokenizer, {"recipe": asdict(config), "last_loss": loss})
    (output_dir / CHECKPOINT).unlink(missing_ok=True)


def export(
    directory: Path,
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    record: dict[str, Any],
) -> None:
    """Write what `from_pretrained` reads, weights in half precision, and `pretraining.json`."""
    from safetensors.torch import save

    side = model.config.vision_config.image_size
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [IMAGE_MEAN] * 3,
        "image_std": [IMAGE_STD] * 3,
        "do_convert_rgb": True,
    }
    directory.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_json(directory / "preprocessor_config.json", processor)
    write_json(directory / "pretraining.json", record)
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    # As bytes: `save_file` would make a file that only its owner may read.
    (directory / "model.safetensors").write_bytes(save(half, metadata={"format": "pt"}))
