"""`precision: auto` asks the device what it computes natively."""

from pathlib import Path
from typing import Any

import pytest
import torch

from system.config import precision
from system.config.precision import cpu_has_bf16, stored_precision


@pytest.mark.parametrize(
    ("flags", "supported", "native"),
    [
        ("fpu avx2 fma", False, False),
        ("fpu avx512f avx512bw avx512_bf16", None, True),
        ("fpu avx512f avx512bw", None, False),
        ("fpu amx_bf16 amx_tile", False, True),
        ("fpu", True, True),
    ],
)
def test_a_processor_is_known_by_pytorch_or_by_its_flags(
    flags: str,
    supported: bool | None,
    native: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AVX-512 alone computes bfloat16 by conversions, which is slower than float32."""
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nflags\t\t: {flags}\nbogomips : 1\n")
    monkeypatch.setattr(precision, "CPU_INFO", info)
    if supported is None:  # an older version of it
        monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    else:
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False
        )
    assert cpu_has_bf16.__wrapped__() == native


def test_a_system_without_that_file_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "CPU_INFO", Path("/nowhere/cpuinfo"))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert not cpu_has_bf16.__wrapped__()


@pytest.mark.parametrize(
    ("stage", "gpu", "native", "meant"),
    [
        ({"optimiser": {}}, False, True, "fp32"),  # of an earlier version, whatever the processor
        ({"optimiser": {}}, True, False, "bf16"),
        ({"optimiser": {}, "check_every": "auto"}, False, True, "bf16"),
        ({"optimiser": {}, "check_every": 1}, False, False, "fp32"),
    ],
)
def test_a_stored_auto_means_what_it_did(
    stage: dict[str, Any], gpu: bool, native: bool, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: native)
    assert stored_precision({"cluster": {"gpu": gpu}, "stage": stage}) == meant
