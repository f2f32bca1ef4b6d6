"""What has to be installed for a job: promptide's own requirements, at the versions of a lock."""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from system.errors import ConfigError
from system.submission.config import Install

PACKAGE = "promptide"
THE_CLUSTERS = frozenset({"ray", PACKAGE})  # a job cannot bring another Ray than the cluster's


def job_requirements(install: Install) -> list[str] | None:
    """Lines for pip, sorted; None where the job takes what the nodes have.

    A version in the lock replaces promptide's own bounds. Raises ConfigError naming the extra or
    the line that cannot be used.
    """
    if install.extras is None and install.lock is None:
        return None
    found: dict[str, str] = {}
    if install.extras is not None:
        found |= {name: str(item) for name, item in _needed(install.extras)}
    if install.lock is not None:
        for item in _locked(install.lock):
            found[canonicalize_name(item.name)] = str(item)
    return sorted(text for name, text in found.items() if name not in THE_CLUSTERS)


def _needed(extras: tuple[str, ...]) -> Iterator[tuple[str, Requirement]]:
    """promptide's requirements with these extras, by canonical name, without their markers."""
    known = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    for extra in extras:
        if extra not in known:
            raise ConfigError(
                f"submit.install.extras holds {extra!r}; promptide has {', '.join(sorted(known))}"
            )
    for text in importlib.metadata.requires(PACKAGE) or []:
        item = Requirement(text)
        wanted = ({"extra": extra} for extra in ("", *extras))
        if item.marker is None or any(item.marker.evaluate(names) for names in wanted):
            item.marker = None
            yield canonicalize_name(item.name), item


def _locked(file: str) -> Iterator[Requirement]:
    try:
        lines = Path(file).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"submit.install.lock={file} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip().removesuffix("\\").strip()
        if not text or text.startswith("--hash="):
            continue
        try:
            yield Requirement(text)
        except InvalidRequirement as error:
            raise ConfigError(
                f"submit.install.lock={file}, line {number}: {text!r} is no requirement such as "
                "torch==2.13.0"
            ) from error
