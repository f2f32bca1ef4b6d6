"""What `precision: auto` stands for: bf16 where the device has it natively, fp32 elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Arithmetic = Literal["fp32", "bf16"]
AUTO = "auto"
#: Flags of an x86 processor that multiplies bfloat16 matrices itself.
NATIVE = frozenset({"avx512_bf16", "amx_bf16"})
CPU_INFO = Path("/proc/cpuinfo")
AMPERE = (8, 0)  # the first compute capability with bfloat16 in its tensor cores


def auto_precision(device: torch.device) -> Arithmetic:
    """The arithmetic of `precision: auto` on a device."""
    import torch

    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= AMPERE else "fp32"
    return "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether this processor has AVX512-BF16 or AMX: others compute bfloat16 by conversions."""
    import torch

    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # not in torch 2.4
    if supported is not None and supported():
        return True
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return bool(NATIVE & set(flags.split()))


def former_precision(device_type: str) -> Arithmetic:
    """What auto stood for in runs that did not write down what it came to."""
    return "bf16" if device_type == "cuda" else "fp32"


def stored_precision(values: Mapping[str, Any]) -> Arithmetic:
    """What auto stands for in a config.yaml, as far as this machine can tell."""
    if values.get("cluster", {}).get("gpu"):
        return "bf16"
    stage = values.get("stage", {})
    if "optimiser" in stage and "check_every" not in stage:  # a stream of an earlier version
        return former_precision("cpu")
    return "bf16" if cpu_has_bf16() else "fp32"
