"""`python -m tests.known_vulnerabilities`: whether what is installed has holes that are known.

pip-audit asks PyPI about every package. Where PyPI does not answer, it calls all of them skipped
and ends well, as if it had looked: here that is said in one line, and is no failure unless
`--required`, or PROMPTIDE_AUDIT=required as in the workflow under .github.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Holes that do not concern promptide, by their names: why. None is known.
EXPLAINED: Mapping[str, str] = {}
REQUIRED = "--required"
_SECONDS = 300  # for all packages
_PATIENCE = 10  # for one answer


@dataclass(frozen=True)
class Audit:
    """Lines for the terminal, and whether packages were looked up, and have holes."""

    lines: tuple[str, ...]
    looked_up: int
    holes: int

    def code(self, required: bool) -> int:
        """The exit status: 1 for a hole, or for having looked nothing up where it is required."""
        return int(self.holes > 0 or (required and self.looked_up == 0))


def judged(report: str, explained: Mapping[str, str] = EXPLAINED) -> Audit:
    """Judge what pip-audit has written as JSON; text that is none stands for no answer at all."""
    try:
        packages: Sequence[Mapping[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, LookupError, TypeError):
        packages = []
    lines, looked_up, holes = [], 0, 0
    for package in packages:
        if "skip_reason" in package:
            continue
        looked_up += 1
        for hole in package["vulns"]:
            names = [hole["id"], *hole.get("aliases", ())]
            why = next((explained[name] for name in names if name in explained), None)
            holes += why is None
            mended = ", ".join(hole.get("fix_versions", ())) or "no version"
            end = f"explained: {why}" if why else f"mended in {mended}"
            lines.append(f"{package['name']} {package['version']}: {' '.join(names)}, {end}")
    if looked_up == 0:
        lines.append("known vulnerabilities: not looked up, PyPI does not answer from here")
    else:
        unknown = len(packages) - looked_up
        lines.append(
            f"known vulnerabilities: {holes} in {looked_up} packages"
            + (f"; {unknown} that PyPI does not know were not looked up" if unknown else "")
        )
    return Audit(tuple(lines), looked_up, holes)


def main(words: Sequence[str]) -> int:
    """Audit the environment that this Python runs in."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", str(_PATIENCE)]
    try:
        report = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS).stdout
    except subprocess.TimeoutExpired:
        report = ""
    audit = judged(report)
    print("\n".join(audit.lines))  # noqa: T201  # a command of its own
    return audit.code(REQUIRED in words or os.environ.get("PROMPTIDE_AUDIT") == "required")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
