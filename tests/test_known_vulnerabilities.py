"""`make lint` says of what it did not look up that it did not, and fails for a hole."""

import json
from typing import Any

import pytest

from tests.known_vulnerabilities import judged

HOLE = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1", "3.0"]}


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


CLEAN = {"name": "a", "version": "1", "vulns": []}
SPOILT = {"name": "b", "version": "2.0", "vulns": [HOLE]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


def test_a_hole_fails_and_is_named_with_its_remedy() -> None:
    audit = judged(report(CLEAN, SPOILT))
    assert audit.code(required=False) == 1
    assert audit.lines[0] == "b 2.0: PYSEC-1 CVE-1, mended in 2.1, 3.0"


def test_a_hole_that_is_explained_does_not() -> None:
    """By any of its names."""
    audit = judged(report(SPOILT), {"CVE-1": "of a part that is not used"})
    assert audit.code(required=True) == 0
    assert audit.lines[0].endswith("explained: of a part that is not used")


def test_what_pypi_does_not_know_is_counted() -> None:
    audit = judged(report(CLEAN, SKIPPED))
    assert audit.code(required=True) == 0
    assert "0 in 1 packages; 1 that PyPI does not know" in audit.lines[-1]


@pytest.mark.parametrize("text", ["", "Traceback", "[]", "{}", report(SKIPPED), report()])
def test_without_an_answer_nothing_passes_for_looked_up(text: str) -> None:
    """pip-audit itself ends well then, and says that no vulnerability is known."""
    audit = judged(text)
    assert audit.lines == ("known vulnerabilities: not looked up, PyPI does not answer from here",)
    assert audit.code(required=False) == 0
    assert audit.code(required=True) == 1
