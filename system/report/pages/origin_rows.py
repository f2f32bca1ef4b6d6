"""What a page says of the data, the code and the machine that results come from."""

from system.report.formatting import DASH
from system.report.metrics_view import MetricsView

_SHORT = 12  # of a fingerprint or a commit, as many characters as one compares by eye


def provenance(metrics: MetricsView) -> list[tuple[str, str]]:
    """Return label and text of the data and of what computed, a dash for what is not recorded."""
    return [
        ("Data", _data(metrics) or DASH),
        ("Computed with", _computed(metrics) or DASH),
    ]


def _data(metrics: MetricsView) -> str:
    """What the benchmark was prepared from, in words."""
    source = ("benchmark", "source")
    options = (*source, "origin", "options")
    parts = {
        "dataset": metrics.text(*source, "origin", "dataset"),
        "from": metrics.text(*options, "root"),
        "division": metrics.text(*source, "split_by"),
        "caption rule": metrics.text(*options, "caption_rule"),
        "fingerprint": (metrics.text("benchmark", "fingerprint") or "")[:_SHORT],
    }
    return ", ".join(f"{label} {text}" for label, text in parts.items() if text)


def _computed(metrics: MetricsView) -> str:
    """Code, packages and machine, in words."""
    commit = (metrics.text("git", "commit") or "")[:_SHORT]
    changed = " with changed files" if metrics.text("git", "dirty") == "True" else ""
    device = [metrics.text("device", key) for key in ("type", "name")]
    cores = metrics.text("device", "host_cores") or metrics.text("host", "cores")
    packages = [
        f"{name} {version}"
        for name in ("promptide", "torch", "ray", "transformers")
        if (version := metrics.text("versions", name)) is not None
    ]
    parts = [
        *packages,
        f"commit {commit}{changed}" if commit else "",
        " ".join(text for text in device if text),
        f"{cores} cores" if cores else "",
    ]
    return ", ".join(part for part in parts if part)
