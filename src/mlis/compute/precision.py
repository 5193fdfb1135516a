"""Device and dtypes of a computation, PyTorch's modes, and denormal numbers."""

import contextlib
import functools
import math
import time
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

        `precision="auto"` means bfloat16 products with float32 masters where they are faster than
        float32 (`has_fast_bfloat16`), else float32. PyTorch's worker threads, if they do not run
        yet, are started so that they flush denormals.

        Raises:
            SettingsError: there is no such device, or it is neither a CPU nor a CUDA device.
        """
        place = resolve_device(device)
        _start_workers()
        if precision == "auto":
            precision = "bfloat16" if has_fast_bfloat16(place) else "float32"
        master = torch.float64 if precision == "float64" else torch.float32
        return cls(place, master, torch.bfloat16 if precision == "bfloat16" else master)

    def mm(self, a: Tensor, b: Tensor) -> Tensor:
        """Matrix product `a @ b`, differentiable: factors in `product`, the result in `master`."""
        return (a.to(self.product) @ b.to(self.product)).to(self.master)

    def tensor(self, array: object) -> Tensor:
        """Bring a real-valued array to the device in the master dtype; it may share memory."""
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            array = array.copy()  # torch warns of read-only memory, such as a memory map's
        return torch.as_tensor(array, dtype=self.master, device=self.device)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of this name; `auto` is CUDA where there is any, else the CPU.

    Raises:
        SettingsError: it is not the CPU or a CUDA device of this machine.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if str(device) == "auto":
        return torch.device("cuda" if gpus else "cpu")
    with contextlib.suppress(RuntimeError, TypeError):  # not the name of a device
        place = torch.device(device)
        if (place.index or 0) < {"cpu": 1, "cuda": gpus}.get(place.type, 0):
            return place
    known = ["cpu", *(f"cuda:{i}" for i in range(gpus))]
    raise SettingsError(
        f"device: expected auto or a device of this machine ({', '.join(known)}), "
        f"got {str(device)!r}"
    )


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware, and faster than float32.

    A CPU that reports the instructions (AVX-512 BF16, AMX) is measured as well: a library that does
    not use them emulates bfloat16, up to a hundred times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    reported = any(getattr(torch.cpu, check, bool)() for check in checks)
    return reported and prefers_bfloat16(*_product_rates())


def prefers_bfloat16(rate_bf16: float, rate_f32: float) -> bool:
    """Whether matrix products at these rates (products per second) should use bfloat16.

    Measured ratios: 3.5 with AMX, 0.6 with AVX-512 BF16 of the same CPU, 0.01 to 0.2 emulated.
    """
    return rate_bf16 > rate_f32


@functools.cache
def _product_rates() -> tuple[float, float]:
    """256 × 256 products per second in bfloat16 and float32: the best of three, once a process.

    On one thread: with many, such a small product measures how fast they synchronise.
    """
    factors = [torch.ones(256, 256, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    best = [math.inf] * len(factors)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(4):  # the first also compiles the kernel; the precisions take turns
            for i, factor in enumerate(factors):
                start = time.perf_counter()
                _ = factor @ factor
                best[i] = min(best[i], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 1 / best[0], 1 / best[1]


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat numbers below 1e-38 as zero inside the block: x86 processors are slow at them.

    Adam's moments get there when a gradient stays zero, since they halve at every step. The mode
    belongs to the calling thread and is restored: NumPy, which shares the thread, warns of it. For
    PyTorch's worker threads see `Precision.of`.
    """
    already = not bool(torch.tensor(1e-40, dtype=torch.float32, device="cpu") * 1.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


@contextlib.contextmanager
def own_modes() -> Iterator[None]:
    """Enable gradients and disable autocast and inference mode, whatever the caller has set.

    Numbers are to depend on arguments alone. The default dtype is of the whole process, so it is
    not changed here: every tensor is made with a dtype of its own.
    """
    with contextlib.ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                modes.enter_context(torch.autocast(device, enabled=False))
        yield


@functools.cache
def _start_workers() -> None:
    """Start PyTorch's worker threads, if they do not run yet; they inherit the flush mode."""
    with flushed_denormals():
        # large enough to be shared among all threads
        torch.ones(1 << 18, dtype=torch.float32, device="cpu").add_(1.0)
