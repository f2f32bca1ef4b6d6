"""Contrastive pre-training of a small CLIP on the embedded benchmark's web scenes.

It runs once; its result ships with the repository (`system/backbones/tiny_clip`) in half precision.
Loss: symmetric InfoNCE over a batch (Radford et al., 2021, figure 3), learned temperature.

Legend: B batch, T tokens.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from system.data.pictograms import ATTRIBUTION, LICENSE_URL, catalogue
from system.data.scene_captions import WebCaptionConfig, vocabulary, web_caption
from system.data.scenes import WebConfig, draw, generator, web_scene
from system.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

# Split numbers 0 to 2 are the benchmark's own; web scenes never share their random numbers.
WEB_SPLIT = 9
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
_CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class PretrainConfig:
    """Size of the model and recipe of its pre-training; `seed` fixes everything."""

    seed: int = 0
    image_size: int = 64
    patch_size: int = 8
    width: int = 128
    mlp_width: int = 384
    vision_layers: int = 4
    text_layers: int = 3
    heads: int = 4
    context: int = 32
    pictograms_per_task: int = 32
    steps: int = 3200
    simple_steps: int = 700
    batch_size: int = 192
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    checkpoint_every: int = 200
    web: WebConfig = field(default_factory=WebConfig)
    captions: WebCaptionConfig = field(default_factory=WebCaptionConfig)


def build_tokenizer(words: list[str], context: int) -> PreTrainedTokenizerFast:
    """A word-level tokenizer; bos and eos are added, the end token has the largest id.

    transformers' CLIP pools at the largest id only if eos_token_id is 2; here it is not, so it
    pools at the first eos.
    """
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(["<pad>", "<unk>", "<bos>", *words, "<eos>"])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        special_tokens=[("<bos>", ids["<bos>"]), ("<eos>", ids["<eos>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=context,
    )


def clip_config(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> CLIPConfig:
    """The model's configuration for transformers."""
    from transformers import CLIPConfig

    shared = {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_attention_heads": config.heads,
        "projection_dim": config.width,
    }
    return CLIPConfig(
        vision_config={
            **shared,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "num_hidden_layers": config.vision_layers,
        },
        text_config={
            **shared,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": config.context,
            "num_hidden_layers": config.text_layers,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        projection_dim=config.width,
    )


def web_batch(
    config: PretrainConfig, step: int
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], list[str]]:
    """Images (B, side, side, 3) and captions of one step; simple scenes in the first steps."""
    pictograms = catalogue(config.pictograms_per_task)
    recipe = config.web
    if step < config.simple_steps:
        recipe = WebConfig(**{**asdict(recipe), "simple_share": 1.0})
    images, captions = [], []
    for row in range(config.batch_size):
        rng = generator(config.seed, WEB_SPLIT, step * config.batch_size + row)
        scene, task = web_scene(rng, pictograms, config.image_size, recipe)
        images.append(draw(pictograms, scene))
        captions.append(web_caption(rng, pictograms, scene, task, config.captions))
    return np.stack(images), captions


def to_pixels(images: np.ndarray[Any, np.dtype[np.uint8]]) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32, normalised as CLIP does."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    mean = torch.tensor(IMAGE_MEAN)[:, None, None]
    std = torch.tensor(IMAGE_STD)[:, None, None]
    return (pixels - mean) / std


def rate_at(step: int, config: PretrainConfig) -> float:
    """Learning rate: linear warm-up, then half a cosine to zero."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def _optimizer(model: CLIPModel, config: PretrainConfig) -> torch.optim.AdamW:
    # Gains, biases and the temperature are not decayed.
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def _recipe(config: PretrainConfig) -> str:
    return json.dumps(asdict(config), sort_keys=True)


def _save_checkpoint(
    path: Path, model: CLIPModel, optimizer: torch.optim.Optimizer, step: int, recipe: str
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{number}.{name}": value for name, value in state.items()})
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"step": str(step), "recipe": recipe})
    os.replace(partial, path)


def _load_checkpoint(
    path: Path, model: CLIPModel, optimizer: torch.optim.Optimizer, recipe: str
) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    if metadata["recipe"] != recipe:
        raise StorageError(f"{path} is of another pre-training recipe; remove it or go elsewhere")
    tensors = load_file(path)
    model.load_state_dict(
        {n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")}
    )
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            states.setdefault(int(number), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    return int(metadata["step"])


def _batches(
    config: PretrainConfig, first: int, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Step, pixels (B, 3, H, W), token ids and attention mask (B, T); drawn one step ahead."""

    def make(step: int) -> tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]:
        images, captions = web_batch(config, step)
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        return step, to_pixels(images), tokens["input_ids"], tokens["attention_mask"]

    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(make, first)
        for step in range(first, config.steps):
            current = upcoming.result()
            if step + 1 < config.steps:
                upcoming = pool.submit(make, step + 1)
            yield current


def _export(
    directory: Path,
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    config: PretrainConfig,
    figures: dict[str, float],
) -> None:
    """Write the directory that `from_pretrained` reads; the weights in half precision."""
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": config.image_size},
        "do_center_crop": True,
        "crop_size": {"height": config.image_size, "width": config.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "do_convert_rgb": True,
        "resample": 3,
    }
    model.config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    _write_json(directory / "preprocessor_config.json", processor)
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(half, directory / "model.safetensors", metadata={"format": "pt"})
    report = {
        "recipe": asdict(config),
        "figures": figures,
        "pictograms": {"attribution": ATTRIBUTION, "license": LICENSE_URL},
    }
    _write_json(directory / "pretraining.json", report)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def pretrain(
    config: PretrainConfig,
    output_dir: Path,
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Pre-train a CLIP and write it as transformers' `from_pretrained` reads it.

    Goes on from `checkpoint.safetensors` in `output_dir` if there is one, with the same result as
    without the interruption; the checkpoint is removed at the end. `progress` gets the finished
    steps, all steps and the loss. Raises ConfigError for sizes that do not fit, StorageError for a
    checkpoint of another recipe.
    """
    from transformers import CLIPModel

    if config.image_size % config.patch_size or config.image_size % 16:
        raise ConfigError(
            f"pretrain.image_size: {config.image_size} must be a multiple of 16 and of patch_size"
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    words = vocabulary(catalogue(config.pictograms_per_task))
    tokenizer = build_tokenizer(words, config.context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = CLIPModel(clip_config(config, tokenizer))
    model.train()
    optimizer = _optimizer(model, config)
    checkpoint, recipe = output_dir / _CHECKPOINT, _recipe(config)
    first = _load_checkpoint(checkpoint, model, optimizer, recipe) if checkpoint.is_file() else 0
    target = torch.arange(config.batch_size)
    recent: list[float] = []
    for step, pixels, ids, mask in _batches(config, first, tokenizer):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, config)
        # (B, B) similarities of images with texts
        logits = model(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits_per_image
        loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100.0))
        recent = [*recent[-99:], float(loss.detach())]
        if progress is not None:
            progress(step + 1, config.steps, recent[-1])
        if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
            _save_checkpoint(checkpoint, model, optimizer, step + 1, recipe)
    _export(output_dir, model, tokenizer, config, {"loss": sum(recent) / max(1, len(recent))})
    checkpoint.unlink(missing_ok=True)
