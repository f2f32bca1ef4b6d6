"""A GLIP on disk: config.json, model.safetensors and the tokenizer's files."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from system.errors import ConfigError
from system.grounders.glip.glip_config import FORMAT_VERSION, MODEL_TYPE, GlipConfig
from system.grounders.glip.glip_network import GlipNetwork
from system.storage.foreign_json import parse_json
from system.storage.published_weights import read_weights, require_same_names
from system.uris import expanded

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZERS = ("tokenizer.json", "vocab.txt")
ALIGNMENT = 64  # bytes, of the tensors that PyTorch makes on a CPU


@dataclass(frozen=True)
class GlipParts:
    """Network (float32) and tokenizer, which fit each other."""

    network: GlipNetwork
    tokenizer: Any


def build_network(config: GlipConfig, seed: int = 0) -> GlipNetwork:
    """An untrained network; the global generator is left as it was found."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GlipNetwork(config)


def unfilled_network(config: GlipConfig) -> GlipNetwork:
    """A network whose parameters hold nothing yet, and take no memory before they do."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        return GlipNetwork(config)


def fill(network: GlipNetwork, weights: Mapping[str, Tensor]) -> None:
    """Take weights as a network's own, in float32, without a copy of those that can stay.

    Copied is what does not lie in memory as PyTorch's own tensors do: the CPU may round its sums in
    another order then, and boxes would depend on the kind of file that a grounder came from.
    """
    own = {}
    for name, value in weights.items():
        single = value.float()
        own[name] = single.clone() if single.data_ptr() % ALIGNMENT else single
    network.load_state_dict(own, assign=True)


def glip_files(
    network: GlipNetwork, tokenizer: Any, half: bool = False
) -> Iterator[tuple[str, bytes]]:
    """The files of a checkpoint's directory by name, config.json last.

    `half` keeps the weights in half precision.
    """
    from safetensors.torch import save_file

    weights = {
        name: (value.half() if half else value).contiguous()
        for name, value in network.state_dict().items()
    }
    with tempfile.TemporaryDirectory(prefix="promptide-") as place:
        tokenizer.save_pretrained(place)
        save_file(weights, Path(place) / WEIGHTS, metadata={"format": "pt"})
        for file in sorted(Path(place).iterdir()):
            yield file.name, file.read_bytes()
    yield CONFIG, (json.dumps(network.config.to_dict(), indent=2) + "\n").encode()


def save_glip(directory: Path, network: GlipNetwork, tokenizer: Any, half: bool = False) -> None:
    """Write a checkpoint's directory: `glip_files`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in glip_files(network, tokenizer, half):
        (directory / name).write_bytes(content)


def load_glip_parts(path: str) -> GlipParts:
    """Load and check a checkpoint's directory.

    Raises ConfigError naming `grounder.path` and the file that is missing or does not fit the
    others, StorageError naming damaged weights.
    """
    directory = expanded(path)
    where = f"grounder.path={path!r}"
    if not directory.is_dir():
        raise ConfigError(
            f"{where} is no directory and no file; give a directory that holds a GLIP (`promptide "
            "pretrain grounder=tiny_grounder grounder.path=DIRECTORY` makes a small one), or a "
            "file of published weights, as glip_a_tiny_o365.pth"
        )
    for alternatives in ((CONFIG,), (WEIGHTS,), TOKENIZERS):
        if not any((directory / file).is_file() for file in alternatives):
            raise ConfigError(
                f"{where} has no {' or '.join(alternatives)}; a GLIP is {CONFIG}, "
                f"{WEIGHTS} and the tokenizer's files"
            )
    config = _read_config(directory / CONFIG, where)
    tokenizer = read_tokenizer(str(directory), config, where)
    weights = read_weights(directory / WEIGHTS)
    network = unfilled_network(config)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    require_same_names(weights, shapes, f"{where}: {WEIGHTS} with {CONFIG} beside it")
    fill(network, weights)
    return GlipParts(network, tokenizer)


def _read_config(file: Path, where: str) -> GlipConfig:
    try:
        values = parse_json(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{where}: {file} is not valid JSON: {error}") from error
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != MODEL_TYPE:
        raise ConfigError(
            f"{where} holds a {kind!r} model, not a GLIP of our form; choose the grounder "
            "group that fits it"
        )
    if values.get("format_version") != FORMAT_VERSION:
        raise ConfigError(
            f"{where}: {file} is of format {values.get('format_version')}; this promptide reads "
            f"{FORMAT_VERSION}"
        )
    return GlipConfig.from_dict(values, str(file))


def read_tokenizer(source: str, config: GlipConfig, where: str) -> Any:
    """The tokenizer of a local directory or of a hub id.

    Raises ConfigError if there is none, or it has more tokens than the config's model embeds.
    """
    from transformers import AutoTokenizer, BertTokenizerFast, PretrainedConfig

    directory = expanded(source)
    advice = (
        "; give a local directory of BERT's tokenizer (vocab.txt or tokenizer.json): "
        "grounder.tokenizer=DIRECTORY, of an import tokenizer=DIRECTORY"
    )
    loader: Any = AutoTokenizer
    options: dict[str, Any] = {}
    if directory.is_dir():
        # Without a config of its own the library can't tell the class of a plain vocab.txt.
        known = (directory / "tokenizer_config.json").is_file()
        loader = AutoTokenizer if known else BertTokenizerFast
        # Else it reads the model's config and warns of a model type that the library does not know.
        options = {"local_files_only": True, **({"config": PretrainedConfig()} if known else {})}
        source, advice = str(directory), ""
    elif directory.is_absolute() or source.startswith("."):
        raise ConfigError(f"{where}: the tokenizer {source} is no directory{advice}")
    try:
        tokenizer = loader.from_pretrained(source, **options)
    except Exception as error:  # whatever the library makes of damaged files
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{where}: the tokenizer {source} could not be loaded ({reason}){advice}"
        ) from error
    if not 0 < len(tokenizer) <= config.text.vocab_size:
        raise ConfigError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens but the model embeds "
            f"{config.text.vocab_size}; they do not belong together"
        )
    return tokenizer
