"""The frozen model as it is, a backbone or a grounder: what every method has to beat.

Radford et al. 2021, "Learning transferable visual models from natural language supervision"
(arXiv 2103.00020). Trainable parameters: none.
"""

from dataclasses import dataclass

from system.methods.base import Method, MethodFactory


@dataclass(frozen=True)
class ZeroShotConfig:
    """There is nothing to set: nothing trains."""


_NOTHING = "trains nothing that tasks could have or share; use frozen, or null"
METHOD = MethodFactory(
    ZeroShotConfig,
    retrieval=Method,
    grounding=Method,
    sharing="frozen",
    no_sharing={"own": _NOTHING, "shared": _NOTHING},
)
