"""The queue before the model: what is computed together, what waits, and what fails alone."""

import threading
import time
from concurrent.futures import Future

import pytest

from mlis.serving.batching import Batcher, BusyError

PATIENCE = 30.0


class Double:
    """Doubles numbers, on leave: a batch begins when `go` is set. Remembers what came."""

    def __init__(self, go: bool = True):
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.go, self.began = threading.Event(), threading.Event()
        if go:
            self.go.set()

    def __call__(self, rows: list[int]) -> list[int]:
        self.began.set()
        assert self.go.wait(PATIENCE)
        self.batches.append(list(rows))
        self.threads.add(threading.get_ident())
        if 13 in rows:
            raise ValueError("13 cannot be doubled")
        return [2 * row for row in rows]


def held(double: Double, **options) -> Batcher[int, int]:
    """A batcher whose thread is busy with a first request, so that more can queue up."""
    batcher = Batcher(double, **{"max_wait": 0.0, **options})
    batcher.submit([0])
    assert double.began.wait(PATIENCE)
    return batcher


def results(futures: list[Future]) -> list:
    return [future.result(PATIENCE) for future in futures]


def test_requests_that_wait_are_computed_together_and_answered_apart():
    double, sizes = Double(go=False), []
    batcher = held(double, max_batch=8, computed=lambda rows, seconds: sizes.append(rows))
    futures = [batcher.submit([1, 2]), batcher.submit([3]), batcher.submit([4, 5, 6])]
    double.go.set()
    assert results(futures) == [[2, 4], [6], [8, 10, 12]]
    batcher.stop()
    assert batcher.join(PATIENCE)
    assert double.batches == [[0], [1, 2, 3, 4, 5, 6]]
    assert sizes == [1, 6]
    assert len(double.threads) == 1
    assert threading.get_ident() not in double.threads


def test_a_batch_is_not_larger_than_it_may_be_and_order_is_kept():
    double = Double(go=False)
    batcher = held(double, max_batch=4)
    futures = [batcher.submit([n, n]) for n in range(1, 6)] + [batcher.submit([9] * 7)]
    double.go.set()
    results(futures)
    batcher.stop()
    assert batcher.join(PATIENCE)
    assert double.batches == [[0], [1, 1, 2, 2], [3, 3, 4, 4], [5, 5], [9] * 7]


def test_a_lonely_request_waits_for_others_no_longer_than_told():
    double = Double()
    batcher = Batcher(double, max_wait=0.3, max_batch=2)
    began = time.perf_counter()
    assert batcher.submit([1]).result(PATIENCE) == [2]
    assert time.perf_counter() - began >= 0.29
    pair = [batcher.submit([1]), batcher.submit([2])]  # full at once: nobody waits
    results(pair)
    batcher.stop()
    assert batcher.join(PATIENCE)
    assert double.batches == [[1], [1, 2]]


def test_what_cannot_be_computed_takes_nobody_along():
    double = Double(go=False)
    batcher = held(double)
    good, bad, other = batcher.submit([1]), batcher.submit([13]), batcher.submit([2])
    double.go.set()
    assert good.result(PATIENCE) == [2]
    assert other.result(PATIENCE) == [4]
    with pytest.raises(ValueError, match="13 cannot"):
        bad.result(PATIENCE)
    assert batcher.submit([3]).result(PATIENCE) == [6]  # the thread lives on
    batcher.stop()
    assert batcher.join(PATIENCE)


def test_stopping_refuses_what_waits_at_once_and_answers_what_is_computed():
    double = Double(go=False)
    batcher = Batcher(double, max_wait=0.0)
    begun = batcher.submit([0])
    assert double.began.wait(PATIENCE)
    waiting = [batcher.submit([n]) for n in (1, 2)]
    waiting[1].cancel()
    batcher.stop()
    with pytest.raises(BusyError, match="stopping"):
        waiting[0].result(0)  # while the model is still busy
    with pytest.raises(BusyError, match="stopping"):
        batcher.submit([3])
    assert not batcher.join(0)
    double.go.set()
    assert begun.result(PATIENCE) == [0]
    assert batcher.join(PATIENCE)
    batcher.stop()  # twice is as once
