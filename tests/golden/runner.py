"""Compares what the product computes with fixtures of numbers: `python -m tests.golden DIR`.

A fixture is an .npz of inputs and expected outputs. A check is one function a subject, registered
by the fixture's name: it reads the inputs from the fixture, calls the product, and returns its
outputs under the names the expected ones have in the fixture.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Fixture = Mapping[str, NDArray[Any]]
Check = Callable[[Fixture], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Tolerance:
    """The error that an element may have: the largest of the three."""

    absolute: float = 0.0
    relative: float = 0.0  # a share of the element that is expected
    scaled: float = 0.0  # a share of the output's largest expected element, or of 1 if that is more


USUAL = Tolerance(absolute=1e-5, relative=1e-4)

CHECKS: dict[str, Check] = {}
#: Tolerances other than the usual one, by fixture and pattern of outputs' names.
TOLERANCES: dict[str, Mapping[str, Tolerance]] = {}


def check(
    name: str, tolerance: Tolerance | Mapping[str, Tolerance] = USUAL
) -> Callable[[Check], Check]:
    """Decorator that enters a check under its fixture's name.

    `tolerance` is the fixture's own, of all outputs, or of those whose names match a pattern with
    `*`; the first that matches counts.
    """

    def enter(function: Check) -> Check:
        assert name not in CHECKS, f"two checks for the fixture {name}"
        CHECKS[name] = function
        TOLERANCES[name] = {"*": tolerance} if isinstance(tolerance, Tolerance) else tolerance
        return function

    return enter


def _tolerance(name: str, output: str) -> Tolerance:
    for pattern, tolerance in TOLERANCES[name].items():
        if fnmatchcase(output, pattern):
            return tolerance
    return USUAL


@dataclass(frozen=True)
class Result:
    """The outcome for one fixture; `status` is pass, FAIL, missing or not covered.

    The errors are the largest over all elements of all outputs, NaN where nothing was compared.
    """

    name: str
    status: str
    absolute: float = float("nan")
    relative: float = float("nan")
    detail: str = ""

    def line(self) -> str:
        """One line of the report."""
        line = (
            f"{self.name:<20} abs {_short(self.absolute)} rel {_short(self.relative)} {self.status}"
        )
        return f"{line}: {self.detail}" if self.detail else line


def run(directory: Path) -> list[Result]:
    """Results for all fixtures of a directory and for the known ones that it lacks."""
    paths = {path.stem: path for path in sorted(directory.glob("*.npz"))}
    results = [_run_file(name, path) for name, path in paths.items()]
    return results + [Result(name, "missing") for name in sorted(CHECKS) if name not in paths]


def failed(results: list[Result]) -> bool:
    """True if a fixture failed, or none was compared at all."""
    statuses = [result.status for result in results]
    return "FAIL" in statuses or "pass" not in statuses


def _run_file(name: str, path: Path) -> Result:
    try:
        with np.load(path, allow_pickle=False) as archive:
            fixture = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return Result(name, "FAIL", detail=f"unreadable: {error}")
    if name not in CHECKS:
        return Result(name, "not covered")
    try:
        outputs = CHECKS[name](fixture)
        return _compare(name, outputs, fixture)
    except Exception as error:  # a check that breaks is one failed line, the others still run
        reason = " ".join(str(error).split())
        return Result(name, "FAIL", detail=f"{type(error).__name__}: {reason}")


def _compare(name: str, outputs: Mapping[str, NDArray[Any]], fixture: Fixture) -> Result:
    if not outputs:
        return Result(name, "FAIL", detail="the fixture holds nothing to compare")
    absolute, relative, wrong = 0.0, 0.0, []
    for key, output in outputs.items():
        expected = np.asarray(fixture[key], dtype=np.float64)
        actual = np.asarray(output, dtype=np.float64)
        if actual.shape != expected.shape:
            return Result(
                name, "FAIL", detail=f"{key} has shape {actual.shape}, expected {expected.shape}"
            )
        error, share = _errors(actual, expected)
        absolute = max(absolute, float(error.max(initial=0)))
        relative = max(relative, float(share.max(initial=0)))
        allowed = _tolerance(name, key)
        largest = np.abs(expected[np.isfinite(expected)]).max(initial=1)
        absolutely = max(allowed.absolute, allowed.scaled * float(largest))
        if not ((error <= absolutely) | (share <= allowed.relative)).all():
            wrong.append(key)
    if wrong:
        detail = f"beyond tolerance: {', '.join(wrong)}"
        return Result(name, "FAIL", absolute, relative, detail)
    vacuous = all(np.isnan(np.asarray(fixture[key], dtype=np.float64)).all() for key in outputs)
    detail = "every expected value is NaN" if vacuous else ""
    return Result(name, "pass", absolute, relative, detail)


def _errors(
    actual: NDArray[np.float64], expected: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Absolute and relative error of each element; NaN equals NaN, and infinity itself."""
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(same, 0.0, np.abs(actual - expected))
        share = np.where(same, 0.0, error / np.abs(expected))
    # a NaN or an infinity on one side only
    return np.nan_to_num(error, nan=np.inf), np.nan_to_num(share, nan=np.inf)


def _short(error: float) -> str:
    return f"{'-' if np.isnan(error) else f'{error:.2e}':<8}"
