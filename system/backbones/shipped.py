"""Models that come inside the package: `shipped:NAME` in a config's path."""

from pathlib import Path

SHIPPED = Path(__file__).resolve().parent


def resolved(path: str) -> str:
    """The path, `shipped:NAME` being a directory inside this package."""
    kind, _, name = path.partition(":")
    return str(SHIPPED / name) if kind == "shipped" else path
