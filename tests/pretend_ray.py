"""What `mlis.compute.ray_cluster` uses of Ray, done at once in this process.

It shows what the engines do with each answer; that Ray gives such answers is shown by test_ray.py.
"""

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from mlis.compute import ray_cluster as cluster


class Ref:
    """Of a value; an exception is raised when it is fetched."""

    def __init__(self, value: Any):
        self.value = value


class PretendRay:
    """A cluster of one node.

    Args:
        cores: of the node.
        deaths: so many of the first tasks are given up.
    """

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            def __init__(self, cause: Exception):
                self.cause = cause

    def __init__(self, cores: float = 2, deaths: int = 0):
        self.cores, self.deaths = cores, deaths
        self.working = False
        self.calls = 0
        self.sent: list[Any] = []
        self.cancelled: list[Any] = []

    def remote(self, function: Any) -> Any:
        def call(*arguments: Any) -> Ref:
            self.calls += 1
            if self.deaths:
                self.deaths -= 1
                return Ref(self.exceptions.RayError("node died"))
            self.working = True
            try:  # arguments and results go through a pipe
                return Ref(_piped(function(*(_piped(one) for one in arguments))))
            except Exception as error:
                return Ref(self.exceptions.RayTaskError(error))
            finally:
                self.working = False

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=call))

    def put(self, value: Any) -> Ref:
        self.sent.append(value)
        return Ref(value)

    def wait(self, references: list[Ref], num_returns: int = 1, timeout: float = 0) -> Any:
        done = [one for one in references if one.value != "slow"]
        return done, [one for one in references if one.value == "slow"]

    def get(self, reference: Ref) -> Any:
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": self.cores}}]

    def is_initialized(self) -> bool:
        return True

    def cancel(self, reference: Ref) -> None:
        self.cancelled.append(reference.value)

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "node")


def _piped(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_piped(one) for one in value)
    return value if isinstance(value, Ref) else pickle.loads(pickle.dumps(value))


def use(patch: pytest.MonkeyPatch, **options: Any) -> PretendRay:
    """Let `mlis.compute.ray_cluster` have it in place of Ray."""
    ray = PretendRay(**options)
    patch.setattr(cluster, "_ray", lambda: ray)
    return ray


def echo(value: Any) -> Any:
    """The work of a task: give, or raise, what it is given."""
    if isinstance(value, Exception):
        raise value
    return value
