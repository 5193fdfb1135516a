"""Where and how numbers are computed: device, precision, and named streams of random numbers."""

import contextlib
import functools
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlis.errors import SettingsError


@dataclass(frozen=True)
class Arithmetic:
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
    def of(cls, precision: str = "auto", device: str | torch.device = "auto") -> "Arithmetic":
        """Resolve `precision` and `device` for this machine.

        `precision="auto"` takes bfloat16 products with float32 masters where they are faster than
        float32 (`has_fast_bfloat16`), else float32. PyTorch's worker threads, if this is the first
        to need them, are started such that they flush denormals.

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
        """Matrix product `a @ b` with factors in the product dtype; the result stays in it.

        Differentiable. Casts are no-ops for tensors that are in the product dtype already.
        """
        return a.to(self.product) @ b.to(self.product)

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
                factor @ factor
                best[i] = min(best[i], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 1 / best[0], 1 / best[1]


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat numbers below 1e-38 as zero while this lasts: x86 processors crawl through them.

    Moments of Adam whose gradient stays zero halve at every step until they get there. This is of
    the calling thread alone, and is set back: NumPy, which computes in it too, warns of it. For
    PyTorch's workers see `Arithmetic.of`.
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
    """Start PyTorch's workers, if nobody has: they take over from this thread that they flush."""
    with flushed_denormals():
        # large enough to be shared among all threads
        torch.ones(1 << 18, dtype=torch.float32, device="cpu").add_(1.0)


class Scratch:
    """Memory of a training step's large temporaries, taken once and used again every step.

    On a CPU, fresh memory costs more than what is computed in it: the operating system hands out
    and clears every page anew (measured: 32 ms for a 4096 × 2048 tensor that 2 ms fill).
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __call__(
        self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Return the tensor of this name, its values left over from the last use."""
        held = self._held.get(name)
        if held is None or held.shape != shape or held.dtype != dtype:
            held = self._held[name] = torch.empty(shape, dtype=dtype, device=like.device)
        return held

    def cast(self, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `tensor` in `dtype`: itself, or a copy in this memory."""
        if tensor.dtype == dtype:
            return tensor
        return self(name, tuple(tensor.shape), tensor, dtype).copy_(tensor)


def put_gradient(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Copy `gradient` into the parameter's own, in its dtype, and return that."""
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    return parameter.grad.copy_(gradient)


def stream(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the random number generator for one purpose.

    Streams of different names are independent, so that what one stage draws never shifts what
    another one draws: an ablation without synthetic features sees the same batches as one with.

    >>> a, b = stream(0, "noise"), stream(0, "noise")
    >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
    True
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    generator = torch.Generator(device=device)
    return generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def sum_by_class(rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sum the (n, D) rows of each class, (C, D): the same bits every time, on every device.

    On a GPU `index_add_` adds in whatever order its threads come, so there it is a product.
    """
    if rows.device.type != "cpu":
        return _one_hot_product(rows, labels, num_classes)
    return rows.new_zeros(num_classes, rows.shape[1]).index_add_(0, labels, rows)


def _one_hot_product(rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    member = rows.new_zeros(num_classes, len(rows))
    return member.scatter_(0, labels[None], 1.0) @ rows
