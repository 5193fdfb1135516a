"""Calls in several processes: results, errors, deaths."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from mlis.compute.processes import call_many
from mlis.errors import SettingsError

SLEEPERS = """
import time
from mlis.compute.processes import call_many
list(call_many(time.sleep, [(600,), (600,)], 2))
"""


def test_one_job_calls_here_and_only_as_results_are_asked_for():
    asked = []
    arguments = (asked.append(i) or (i, 1) for i in range(5))
    results = call_many(pow, arguments, 1)
    assert [next(results), next(results)] == [0, 1]
    assert asked == [0, 1]


def test_results_errors_and_deaths_of_processes():
    assert sorted(call_many(pow, [(2, i) for i in range(7)], 2)) == [2**i for i in range(7)]
    with pytest.raises(ValueError, match="invalid literal"):
        list(call_many(int, [("1",), ("x",)], 2))
    with pytest.raises(SettingsError, match="worker process died"):
        list(call_many(os._exit, [(1,)], 2))


def test_processes_end_with_the_one_that_started_them():
    parent = subprocess.Popen([sys.executable, "-c", SLEEPERS])
    try:
        deadline = time.monotonic() + 600
        workers: list[psutil.Process] = []
        while sum("spawn_main" in " ".join(one.cmdline()) for one in workers) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            workers = psutil.Process(parent.pid).children(recursive=True)
        time.sleep(0.5)
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=600)
    assert not alive
