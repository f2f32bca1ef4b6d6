"""One set of parameters that goes on from task to task."""

from abc import abstractmethod

from torch import Tensor, nn

from system.backbones.dual_encoder import DualEncoder, Modality
from system.methods.method import Method


class SharedMethod(Method):
    """A method without a router whose parameters every task trains further.

    Whatever the newest task left serves all samples, so earlier tasks can be forgotten.
    """

    needs_router = False
    shares_parameters = True

    def __init__(self) -> None:
        super().__init__()
        self._known = 0

    @property
    def known_tasks(self) -> int:
        """How many tasks have begun."""
        return self._known

    def add_task(self, backbone: DualEncoder) -> None:
        """Make the parameters with the first task; the later ones train the same."""
        if self._known == 0:
            self.make_parameters(backbone)
        self._known += 1

    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The shared parameters, whatever the task."""
        return self.shared_parameters()

    def encode(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor, tasks: Tensor
    ) -> Tensor:
        """Features under what the newest task left; `tasks` are not looked at."""
        return self.encode_shared(backbone, modality, inputs)

    @abstractmethod
    def make_parameters(self, backbone: DualEncoder) -> None:
        """Make the parameters, on the backbone's device."""

    @abstractmethod
    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters by name, in one order."""

    @abstractmethod
    def encode_shared(self, backbone: DualEncoder, modality: Modality, inputs: Tensor) -> Tensor:
        """Features (B, P), not normalised, of inputs (B, ...)."""
