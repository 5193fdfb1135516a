"""A function called many times, in this process or in several."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from mlis.errors import SettingsError

T = TypeVar("T")


def call_many(
    function: Callable[..., T], arguments: Iterable[tuple[Any, ...]], jobs: int
) -> Generator[T, None, None]:
    """Results of `function(*one)`, in the order in which they are ready.

    With one job the calls are made here, one after the other. Otherwise PyTorch's threads are
    divided among the processes, which end when the generator is closed or this process dies.

    Args:
        function: importable by name.
        arguments: of each call; consumed as calls begin.
        jobs: processes.

    Raises:
        SettingsError: a process died.
    """
    if jobs == 1:
        yield from itertools.starmap(function, arguments)
        return
    context, calls = get_context("spawn"), iter(arguments)
    alive, ours = context.Pipe(duplex=False)  # the system closes `ours`, however this process ends
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, context, _begin_worker, (threads, alive))
    try:
        pending = {pool.submit(function, *one) for one in itertools.islice(calls, jobs)}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            pending |= {pool.submit(function, *one) for one in itertools.islice(calls, len(done))}
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise SettingsError(
            "a worker process died, probably for lack of memory: what is finished is kept; repeat "
            "the command with fewer --jobs"
        ) from None
    finally:
        ours.close()
        pool.shutdown(cancel_futures=True)


def _begin_worker(threads: int, alive: Any) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which stops us

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            alive.recv_bytes()  # nothing is sent: it returns when the other end is closed
        os._exit(1)  # as if killed: locks are released, snapshots stay

    threading.Thread(target=watch, daemon=True).start()
