"""A reader of the page cannot tell on which data and code it rests, if these fail."""

from system.report.formatting import DASH
from system.report.metrics_view import MetricsView
from system.report.pages.origin_rows import provenance

METRICS = {
    "benchmark": {
        "name": "refs",
        "fingerprint": "0123456789abcdef",
        "source": {
            "split_by": "umd",
            "origin": {"dataset": "refcoco", "options": {"root": "/data", "caption_rule": "lpi"}},
        },
    },
    "versions": {"torch": "2.13.0", "ray": "2.60.0"},
    "git": {"commit": "fedcba9876543210", "dirty": True},
    "device": {"type": "cuda", "name": "NVIDIA H200", "host_cores": 16},
}


def test_data_division_code_and_device_are_named() -> None:
    (_, data), (_, computed) = provenance(MetricsView(METRICS))
    assert data == (
        "dataset refcoco, from /data, division umd, caption rule lpi, fingerprint 0123456789ab"
    )
    assert computed == (
        "torch 2.13.0, ray 2.60.0, commit fedcba987654 with changed files, cuda NVIDIA H200, "
        "16 cores"
    )


def test_what_an_earlier_version_did_not_record_is_a_dash() -> None:
    assert [text for _, text in provenance(MetricsView({}))] == [DASH, DASH]
