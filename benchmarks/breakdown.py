"""Where a step's time goes, by kind of operation, from torch.profiler."""

from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "products": ("mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "dot"),
    "optimiser": ("_fused_adam_",),
    "random numbers": ("normal_", "uniform_", "random_", "randperm"),
    "copies, casts, gathers": (
        *("copy_", "cat", "stack", "index", "index_select", "gather", "take_along_dim"),
        *("scatter_add_", "index_add_", "fill_", "zero_", "clone"),
    ),
}
REST = "elementwise, reductions, Python"


def kind_of(name: str) -> str:
    """The kind of an operation such as `aten::mm`.

    >>> kind_of("aten::mm"), kind_of("aten::exp")
    ('products', 'elementwise, reductions, Python')
    """
    bare = name.removeprefix("aten::")
    return next((kind for kind, names in KINDS.items() if bare in names), REST)


def breakdown(
    step: Callable[[], object], steps: int = 3, top: int = 12
) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Shares of the time of `steps` calls by kind, and of the `top` longest operations by name."""
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    step()
    with profile(activities=activities, acc_events=True) as found:
        for _ in range(steps):
            step()
    events = found.key_averages()
    own = "self_device_time_total" if cuda else "self_cpu_time_total"
    times = {event.key: float(getattr(event, own)) for event in events}
    total = sum(times.values()) or 1.0
    shares = dict.fromkeys((*KINDS, REST), 0.0)
    for name, time in times.items():
        shares[kind_of(name)] += time / total
    longest = sorted(times.items(), key=lambda item: -item[1])[:top]
    return shares, [(name, time / total) for name, time in longest]


def lines(shares: dict[str, float], longest: Iterable[tuple[str, float]]) -> str:
    """Both, to print."""
    kinds = [f"    {share:6.1%}  {kind}" for kind, share in shares.items()]
    names = [f"    {share:6.1%}  {name}" for name, share in longest]
    return "\n".join([*kinds, "  the longest operations:", *names])
