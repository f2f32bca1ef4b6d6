"""Deformable convolution of GLIP's head. The released code's numbers are in tests/golden."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from system.grounders.glip import deformable
from system.grounders.glip.deformable import leading_numbers, modulated_deform_conv, output_size
from tests.grounders.glip.naive_deformable import deform_by_loop

#: Samples, channels, height, width, output channels, stride.
CASES = [(2, 3, 4, 5, 4, 1), (2, 3, 6, 5, 2, 2), (1, 2, 1, 2, 3, 1), (1, 1, 1, 1, 1, 2)]


def arguments(
    case: tuple[int, int, int, int, int, int], dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Input, offsets that also leave the map, modulation, weight and bias; all want gradients."""
    batch, channels, height, width, outputs, stride = case
    generator = torch.Generator().manual_seed(sum(case))

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    x = draw(batch, channels, height, width)
    size = output_size(x, stride)
    values = [
        x,
        2 * draw(batch, 18, *size),
        draw(batch, 9, *size).sigmoid(),
        draw(outputs, channels, 3, 3),
        draw(outputs),
    ]
    return [value.to(dtype).requires_grad_() for value in values]


def convolve(given: Sequence[Tensor], stride: int = 1) -> Tensor:
    x, offset, modulation, weight, bias = given
    return modulated_deform_conv(x, offset, modulation, weight, bias, stride)


def by_loop(given: Sequence[Tensor], stride: int = 1) -> Tensor:
    x, offset, modulation, weight, bias = given
    return deform_by_loop(x, offset, modulation, weight, bias, stride)


def gradients(result: Tensor, given: list[Tensor]) -> list[Tensor]:
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    return list(torch.autograd.grad(result, given, upstream.to(result.dtype)))


@pytest.fixture
def torchvision_unknown() -> Iterator[None]:
    deformable._torchvision_kernel.cache_clear()
    yield
    deformable._torchvision_kernel.cache_clear()


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_one_tap_at_a_time(case: tuple[int, int, int, int, int, int]) -> None:
    """Also in every gradient: prompts learn through all of the head."""
    given = arguments(case)
    found, expected = convolve(given, case[-1]), by_loop(given, case[-1])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, given), gradients(expected, given))


@pytest.mark.parametrize("case", [(1, 2, 3, 3, 1, 1), (2, 1, 3, 4, 1, 2)])
def test_gradients_are_those_of_finite_differences(
    case: tuple[int, int, int, int, int, int],
) -> None:
    given = arguments(case)
    assert torch.autograd.gradcheck(lambda *each: convolve(each, case[-1]), given)


@pytest.mark.parametrize("stride", [1, 2])
def test_taps_in_their_places_are_a_plain_convolution(stride: int) -> None:
    x, offset, modulation, weight, bias = arguments((2, 3, 6, 5, 2, stride))
    plain = modulated_deform_conv(
        x, torch.zeros_like(offset), torch.ones_like(modulation), weight, bias, stride
    )
    torch.testing.assert_close(plain, conv2d(x, weight, bias, stride, padding=1))


def test_a_tap_at_minus_one_reads_nothing_and_learns_nothing() -> None:
    """Without offsets, the first taps of the first row and column stand exactly there."""
    x, offset, modulation, weight, bias = arguments((1, 2, 3, 3, 2, 1))
    zero = torch.zeros_like(offset, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        modulated_deform_conv(x, zero, modulation, weight, bias).sum(), zero
    )
    taps = gradient.view(3, 3, 2, 3, 3)  # tap's row and column, axis, cell's row and column
    assert not taps[0, :, :, 0].any()
    assert not taps[:, 0, :, :, 0].any()
    assert not taps[2, :, :, 2].any()
    assert taps[1, 1].all()


@pytest.mark.parametrize("frozen", [False, True])
def test_results_do_not_depend_on_the_chunks(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """From several samples at a time down to one row, with weights that learn and without."""
    case = (5, 3, 7, 4, 4, 2)
    given = arguments(case)
    learning = given[:3] if frozen else given
    if frozen:
        given[3:] = [value.detach() for value in given[3:]]
    whole = convolve(given, 2)
    expected = gradients(whole, learning)
    row = output_size(given[0], 2)[1] * 9 * (3 + deformable.PLACE_NUMBERS) * 8
    for rows in (0, 1, 3, 4, 9):
        monkeypatch.setattr(deformable, "CHUNK_BYTES", rows * row)
        found = convolve(given, 2)
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(gradients(found, learning), expected)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes of a tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (tuple, list)) else (results,):
            if isinstance(result, Tensor):
                self.found = max(self.found, result.numel() * result.element_size())
        return results


@pytest.mark.parametrize("batch", [1, 4])
def test_memory_is_bounded_by_the_chunk(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampled values of a photograph's finest level, 9 times its features, do not fit."""
    given = arguments((batch, 64, 12, 12, 8, 1), torch.float32)
    sampled = 9 * 4 * given[0].numel()
    sizes = []
    for limit in (2**40, sampled // batch // 4):
        monkeypatch.setattr(deformable, "CHUNK_BYTES", limit)
        with Largest() as largest:
            gradients(convolve(given), given)
        sizes.append(largest.found)
    assert sizes[0] >= sampled
    assert sizes[1] <= max(limit, 1.5 * 4 * given[0].numel())  # or the input in its border


def test_sampled_values_are_not_kept_for_the_backward_pass() -> None:
    """Six blocks of three branches and five levels would keep gigabytes."""
    given = arguments((1, 64, 12, 12, 8, 1), torch.float32)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = convolve(given)
    assert sum(kept.values()) < 9 * 4 * given[0].numel() / 2
    assert all(gradient.isfinite().all() for gradient in gradients(result, given))


def test_computes_in_full_precision_under_autocast() -> None:
    """Places of half precision miss by whole cells on large maps; the released runs do not."""
    given = arguments(CASES[0], torch.float32)
    expected = convolve(given)
    half = [value.bfloat16() for value in given]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(convolve(given), expected)
        found = convolve(half)
    assert found.dtype is torch.float32
    assert torch.equal(found, convolve([value.float() for value in half]))


def test_half_precision_is_near_full() -> None:
    given = [value.detach() for value in arguments((2, 16, 9, 11, 8, 1), torch.float32)]
    expected = convolve(given)
    x, offset, modulation, weight, bias = given
    found = modulated_deform_conv(
        x.bfloat16(), offset, modulation, weight.bfloat16(), bias.bfloat16()
    )
    assert found.dtype is torch.bfloat16
    assert (found - expected).abs().max() <= 1e-2 * expected.abs().max()


def test_runs_repeat_to_the_bit() -> None:
    given = arguments((2, 8, 12, 12, 8, 1), torch.float32)
    runs = []
    for _ in range(2):
        result = convolve(given)
        runs.append([result, *gradients(result, given)])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1e30])
def test_a_place_that_is_no_number_reads_nothing(odd: float) -> None:
    """A diverging training must be told by its loss, not by a crash of the process."""
    x, offset, modulation, weight, bias = arguments(CASES[0])
    with torch.no_grad():
        offset[0, 8, 1, 1] = odd
        modulation_without = modulation.clone()
        modulation_without[0, 4, 1, 1] = 0
    found = modulated_deform_conv(x, offset, modulation, weight, bias)
    assert torch.isfinite(torch.stack(gradients(found, [x]))).all()
    safe = offset.nan_to_num(0, 0, 0)
    torch.testing.assert_close(
        found, modulated_deform_conv(x, safe, modulation_without, weight, bias)
    )


def test_no_samples_give_no_results() -> None:
    x, offset, modulation, weight, bias = arguments(CASES[0])
    found = modulated_deform_conv(x[:0], offset[:0], modulation[:0], weight, bias)
    assert found.shape == (0, 4, 4, 5)


@pytest.mark.parametrize(("index", "name"), [(1, "offset"), (2, "modulation")])
def test_another_size_than_the_results_is_refused(index: int, name: str) -> None:
    given = arguments(CASES[0])
    given[index] = given[index][..., :-1]
    with pytest.raises(ValueError, match=rf"{name} is of shape .*, 4\) instead of .*, 4, 5\)"):
        convolve(given)


class RecordingTorchvision:
    """`torchvision.ops.deform_conv2d` by the loop, from the layout that it documents."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        input: Tensor,
        offset: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        mask: Tensor | None = None,
    ) -> Tensor:
        self.calls.append(
            {
                "offset": tuple(offset.shape),
                "mask": None if mask is None else tuple(mask.shape),
                "stride": stride,
                "padding": padding,
                "dilation": dilation,
            }
        )
        assert mask is not None
        assert bias is not None
        return deform_by_loop(input, offset, mask, weight, bias, stride[0])


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch, torchvision_unknown: None) -> RecordingTorchvision:
    operators: Any = ModuleType("torchvision.ops")
    operators.deform_conv2d = RecordingTorchvision()
    package: Any = ModuleType("torchvision")
    package.ops = operators
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.ops", operators)
    recording: RecordingTorchvision = operators.deform_conv2d
    return recording


def test_torchvision_serves_an_accelerator(
    torchvision: RecordingTorchvision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples in chunks; (dy, dx) of a tap side by side, as the library documents."""
    given = arguments((3, 2, 6, 5, 2, 2))
    expected = convolve(given, 2)
    assert not torchvision.calls  # its kernel for a CPU is the slower one
    kernel = deformable._implementation(torch.device("cuda"))
    monkeypatch.setattr(deformable, "_implementation", lambda device: kernel)
    monkeypatch.setattr(deformable, "CHUNK_BYTES", 0)
    found = convolve(given, 2)
    assert torchvision.calls == 3 * [
        {
            "offset": (1, 18, 3, 3),
            "mask": (1, 9, 3, 3),
            "stride": (2, 2),
            "padding": (1, 1),
            "dilation": (1, 1),
        }
    ]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, given), gradients(expected, given))


@pytest.mark.usefixtures("torchvision_unknown")
@pytest.mark.parametrize("error", [ImportError, RuntimeError, OSError])
def test_an_accelerator_without_a_torchvision_that_fits_is_served_too(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One built for another torch fails when it is imported, not only one that is missing."""

    def fail(name: str) -> ModuleType:
        raise error(name)

    monkeypatch.setattr(deformable, "import_module", fail)
    assert deformable._implementation(torch.device("cuda")) is deformable._samples


def test_leading_numbers_are_no_crop() -> None:
    """The published weights were trained with them; a crop moves boxes."""
    values = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6).requires_grad_()
    found = leading_numbers(values, (2, 3))
    first, second = torch.arange(18.0).view(3, 2, 3), torch.arange(18.0).view(3, 2, 3) + 72
    assert torch.equal(found, torch.stack((first, second)))
    (gradient,) = torch.autograd.grad(found.sum(), values)
    assert torch.equal(gradient.flatten(1), (torch.arange(72) < 18).float().expand(2, -1))
    assert torch.equal(leading_numbers(values, (4, 6)), values)
