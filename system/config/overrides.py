"""Writing `key=value` so that Hydra reads it back."""

import json
import re
from typing import Any

PLAIN_TEXT = re.compile(r"[A-Za-z_][\w./-]*")  # what Hydra reads as a string without quotes


def override(key: str, value: Any) -> str:
    """`key=value` as Hydra reads it back."""
    if value is None:
        return f"{key}=null"
    if isinstance(value, str) and PLAIN_TEXT.fullmatch(value):
        return f"{key}={value}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"
