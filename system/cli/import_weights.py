"""`promptide import`: published weights in our own directory form."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from yaml import YAMLError, safe_load

from system.config.parse import parse_dataclass
from system.diff_prompt.mask_vae.import_mask_vae import MaskVaeImport, import_mask_vae
from system.diff_prompt.prompt_generator.import_mask_dit import MaskDitImport, import_mask_dit
from system.errors import ConfigError
from system.grounders.glip.published_checkpoint import import_glip
from system.grounders.glip.published_sizes import PublishedOptions
from system.storage.files import Folder

#: By kind: what the files do not say, how they are imported, and where the result is used.
KINDS: dict[str, tuple[type[Any], Callable[[str, Folder, Any], str], str]] = {
    "mask_vae": (
        MaskVaeImport,
        import_mask_vae,
        "method.generator.mask_vae.path={0}, or stage.mask_vae.path={0} to train a generator",
    ),
    "mask_dit": (
        MaskDitImport,
        import_mask_dit,
        "method.generator.path={0}, or experiment=prompt_generator stage.path={0} to judge it",
    ),
    "glip": (PublishedOptions, import_glip, "grounder=glip_t_a grounder.path={0}"),
}
USAGE = f"promptide import {'|'.join(KINDS)} SOURCE FOLDER [key=value ...]"


def import_weights(words: Sequence[str], file: str | None, console: Console) -> None:
    """Convert the weights of a hub id, folder or file into a folder that does not exist yet.

    The first word is one of `KINDS`.
    Raises ConfigError for words that are none of it, and what the conversion raises.
    """
    if file is not None or len(words) < 3:
        raise ConfigError(f"import {' '.join(words)}: write `{USAGE}`")
    kind, source, out, *rest = words
    options, convert, use = KINDS[kind]
    values = {}
    for word in rest:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"import: {word!r} is no key=value; write `{USAGE}`")
        try:
            values[key] = safe_load(text)
        except YAMLError as error:
            raise ConfigError(f"import: {word!r} cannot be read: {error}") from error
    folder = Folder.of(out, "FOLDER")
    if folder.names():
        raise ConfigError(f"import: {folder.uri} holds files already; name a folder that is empty")
    said = convert(source, folder, parse_dataclass(options, values, "import"))
    console.print(said, highlight=False, soft_wrap=True)
    console.print(f"to use it: {use.format(folder.uri)}", highlight=False, soft_wrap=True)
