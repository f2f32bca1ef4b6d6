"""The machine that a plan is for: how many devices, how fast, how much of that is reached."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from system.config.compose import composed_values
from system.config.parse import parse_dataclass
from system.errors import ConfigError

#: TFLOP/s in bf16 with float32 sums, dense, as the vendors' data sheets have them.
PEAKS = {
    "a10": 125.0,
    "l4": 121.0,
    "l40s": 362.0,
    "a100": 312.0,
    "h100_pcie": 756.0,
    "h100": 989.0,
    "h200": 989.0,
    "b200": 2250.0,
    "mi300x": 1307.0,
}


@dataclass(frozen=True)
class PlanConfig:
    """The section `plan`: devices, and the speed of one.

    `devices` null are as many as the run has workers. `tflops` null is the peak of the `device`.
    """

    device: str = "h100"
    devices: int | None = None
    tflops: float | None = None
    utilisation: float = 0.35

    def __post_init__(self) -> None:
        if self.tflops is None and self.device not in PEAKS:
            raise ValueError(
                f"device={self.device!r} is not one of: {', '.join(PEAKS)}; give its plan.tflops"
            )
        if self.devices is not None and self.devices < 1:
            raise ValueError(f"devices={self.devices} must be at least 1, or null")
        if self.tflops is not None and not self.tflops > 0:
            raise ValueError(f"tflops={self.tflops} must be above 0, or null")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation={self.utilisation} must be above 0 and at most 1")

    @property
    def peak(self) -> float:
        """TFLOP/s of one device."""
        return PEAKS[self.device] if self.tflops is None else self.tflops

    def seconds(self, flops: float, workers: int) -> float:
        """For so many FLOPs on all devices."""
        devices = self.devices or max(workers, 1)
        return flops / (devices * self.peak * 1e12 * self.utilisation)

    def described(self, workers: int) -> str:
        """The assumption in words."""
        devices = self.devices or max(workers, 1)
        name = self.device if self.tflops is None else "device"
        return (
            f"{devices} x {name} of {self.peak:g} TFLOP/s, {100 * self.utilisation:g} % of them "
            "reached (plan.utilisation: assumed, measure it by --measure)"
        )


def compose_plan(overrides: Sequence[str]) -> PlanConfig:
    """The section of the overrides of `plan`, over configs/plan.yaml.

    Raises ConfigError naming the key.
    """
    schema: dict[str, Any] = {"plan": PlanConfig}
    values = composed_values(overrides, None, "plan", compose_plan, schema)
    if values.get("plan") is None:
        raise ConfigError("plan=null: leave it out")
    return parse_dataclass(PlanConfig, values["plan"], "plan")


def is_plan(argument: str) -> bool:
    """True for overrides of `plan`, which no run has."""
    key = argument.lstrip("+~").partition("=")[0]
    return key == "plan" or key.startswith("plan.")
