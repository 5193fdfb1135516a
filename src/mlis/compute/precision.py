"""Device and dtypes of a computation, and denormal numbers."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlis.errors import SettingsError


@dataclass(frozen=True)
class Precision:
    """Device and dtypes of a computation.

    Attributes:
        device: where tensors live.
        master: dtype of weights, losses, penalties, norms and optimiser state.
        product: dtype of the factors of large matrix products.
    """

    device: torch.device
    master: torch.dtype
    product: torch.dtype

    @classmethod
    def of(cls, precision: str = "auto", device: str | torch.device = "auto") -> "Precision":
        """Resolve `precision` and `device` for this machine.

        `precision="auto"` means bfloat16 products with float32 masters where the hardware
        multiplies bfloat16 natively, else float32. PyTorch's worker threads, if they do not run
        yet, are started so that they flush denormals.

        Raises:
            SettingsError: a CUDA device is requested and there is none.
        """
        place = _device(device)
        _start_workers()
        if precision == "auto":
            precision = "bfloat16" if has_native_bfloat16(place) else "float32"
        master = torch.float64 if precision == "float64" else torch.float32
        return cls(place, master, torch.bfloat16 if precision == "bfloat16" else master)

    def mm(self, a: Tensor, b: Tensor) -> Tensor:
        """Matrix product `a @ b`, differentiable: factors in `product`, the result in `master`."""
        return (a.to(self.product) @ b.to(self.product)).to(self.master)

    def tensor(self, array: object) -> Tensor:
        """Bring a real-valued array to the device in the master dtype; it may share memory."""
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            array = array.copy()  # torch warns of read-only memory, such as a memory map's
        return torch.as_tensor(array).to(self.device, self.master)


def _device(device: str | torch.device) -> torch.device:
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise SettingsError(f"device must be auto, cpu or cuda[:N], but got {device!r}") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device {device} requested, but PyTorch finds no CUDA device")
    return place


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware (AVX-512 BF16, AMX, GPUs)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat numbers below 1e-38 as zero inside the block: x86 processors are slow at them.

    Adam's moments get there when a gradient stays zero, since they halve at every step. The mode
    belongs to the calling thread and is restored: NumPy, which shares the thread, warns of it. For
    PyTorch's worker threads see `Precision.of`.
    """
    already = not bool(torch.tensor(1e-40) * 1.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


@functools.cache
def _start_workers() -> None:
    """Start PyTorch's worker threads, if they do not run yet; they inherit the flush mode."""
    with flushed_denormals():
        torch.ones(1 << 18).add_(1.0)  # large enough to be shared among all threads
