"""YAML that somebody else may have written, parsed within bounds."""

from typing import Any

import yaml
from omegaconf import OmegaConf

from system.storage.foreign_json import MOST_DEPTH, TOO_DEEP, require_size

MOST_BYTES = 4 << 20  # of a config


def parse_yaml(data: bytes) -> Any:
    """The value of a config as OmegaConf reads YAML, interpolations left as they are.

    Raises ValueError for what is no YAML, longer than `MOST_BYTES`, deeper than `MOST_DEPTH`,
    or has aliases: of these a few hundred bytes unfold to any size.
    """
    require_size(len(data), MOST_BYTES)
    depth = 0
    try:
        text = data.decode()
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(
                    f"line {event.start_mark.line + 1} has an alias, which is not read"
                )
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise ValueError(TOO_DEEP)
        return OmegaConf.to_container(OmegaConf.create(text))
    except ValueError:
        raise
    # Beside YAML's own errors an AssertionError for a single word, and its grammar's for a "${".
    except Exception as error:
        raise ValueError(str(error) or "it holds no mapping") from error
