"""Work on a stream of items in ray's actors, in order and in constant memory.

Ray restarts an actor that dies and gives it again what it had not answered. Ray Data
over the same actors is slower, see `tests/benchmarks/README.md`.
"""

import os
import re
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

from gpt2kw.errors import UserError

Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)

_BATCH = 256
"""Items per call of a worker: small enough that no worker waits long at the end."""
_QUEUED = 3
"""Batches that each worker holds, so that it never waits for the next one."""


_DEATHS = 10
"""How often a worker is started anew. One that dies each time would never end."""


class Worker(Protocol[Item, Result]):
    """Holds what is slow to load, and works on batches."""

    def run(self, items: list[Item]) -> list[Result]:
        """Return a result for each item, the same for the same item."""


@contextmanager
def worker_pool(
    worker: Callable[..., Worker[Item, Result]],
    *arguments: Any,
    workers: int,
    address: str | None,
    shared: Any = None,
    batch: int = _BATCH,
    on_gpus: bool = False,
) -> Iterator[Callable[[Iterable[Item]], Iterator[Result]]]:
    """Yield a function that maps items to results in the order of the items.

    Args:
        worker: a class; each actor makes one from `arguments`.
        *arguments: must be picklable.
        workers: how many; 0 means one for each core, or, with `on_gpus`, for each GPU or
            else machine. No more are started than there are cores or GPUs.
        address: of a running ray cluster; None starts ray on this machine, and stops
            it at the end. A ray that the program has connected to is used as it is.
        shared: what is too large to be sent to each worker by itself. `run` then gets, as
            a second argument, a function that returns it.
        batch: items that a worker gets in a call.
        on_gpus: each worker has a GPU to itself, where there are any.

    Raises:
        UserError: ray can't be reached, or a worker raised it or died for good.
    """
    with connected(address, workers) as ray:
        count, needs = _team(ray, workers, on_gpus)
        actor = ray.remote(**needs, max_restarts=_DEATHS, max_task_retries=_DEATHS)(worker)
        actors = [actor.remote(*arguments) for _ in range(count)]
        # With each call, since ray warns of what actors get from its store when they start.
        extra = () if shared is None else (partial(_fetch, ray.put(shared)),)
        yield lambda items: _map(ray, actors, batched(items, batch), extra)


def _fetch(stored: Any) -> Any:
    import ray

    return ray.get(stored)


def _team(ray: Any, workers: int, on_gpus: bool) -> tuple[int, dict[str, Any]]:
    """Return how many workers there are to be, and what ray is to give each of them."""
    there = ray.cluster_resources()
    cores, gpus = max(1, int(there.get("CPU", 1))), int(there.get("GPU", 0))
    if not on_gpus:
        return min(workers or cores, cores), {"num_cpus": 1}
    machines = sum(node["Alive"] and "CPU" in node["Resources"] for node in ray.nodes())
    needs = {"num_cpus": 1, "num_gpus": int(gpus > 0), "scheduling_strategy": "SPREAD"}
    return min(workers or gpus or machines, gpus or cores), needs


def batched(items: Iterable[Item], size: int = _BATCH) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`, as a worker gets them."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _map(
    ray: Any, actors: list[Any], batches: Iterator[list[Item]], extra: tuple[Any, ...]
) -> Iterator[Result]:
    """Give each batch to the actor that has the fewest; yield results in order."""
    queued = dict.fromkeys(actors, 0)
    running: deque[tuple[Any, Any]] = deque()
    while True:
        for batch in islice(batches, len(actors) * _QUEUED - len(running)):
            actor = min(queued, key=queued.__getitem__)
            queued[actor] += 1
            running.append((actor.run.remote(batch, *extra), actor))
        if not running:
            return
        result, actor = running.popleft()
        try:
            yield from ray.get(result)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, UserError):
                raise cause from error
            raise UserError(f"a worker failed: {error}", "see ray's logs in /tmp/ray") from error
        queued[actor] -= 1


@contextmanager
def connected(address: str | None, cores: int = 0) -> Iterator[Any]:
    """Yield the ray module, connected. A ray that was started here is stopped again.

    Args:
        address: of a running cluster; None or "local" starts ray on this machine. A ray
            that the program has connected to is used as it is.
        cores: of a ray that is started here; 0 means all of the machine's.

    Raises:
        UserError: ray can't be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    handler = signal.getsignal(signal.SIGTERM)
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if address and address != "local":
        _connect(ray, address, quiet)
    else:
        _start(ray, cores, quiet)
    if threading.current_thread() is threading.main_thread():
        # Ray sets one of its own, which ends the program without a clean-up.
        signal.signal(signal.SIGTERM, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _start(ray: Any, cores: int, settings: dict[str, Any]) -> None:
    try:
        ray.init(address="local", num_cpus=cores or None, include_dashboard=False, **settings)
    except Exception as error:  # ray raises plain Exception if its processes don't come up
        ray.shutdown()
        reason = str(error).partition("\n")[0]
        raise UserError(f"ray can't start: {reason}", "free memory and cores, try again") from error
    _stop_autoscaler(ray)


def _stop_autoscaler(ray: Any) -> None:
    """End the process that would hire machines for a ray that was started here.

    Ray's shutdown takes over a second with it and a third of one without. Ray has no
    public way to leave it out; should its insides change, it just stays.
    """
    with suppress(AttributeError, KeyError):
        for started in ray._private.worker._global_node.all_processes["monitor"]:
            started.process.kill()


def _connect(ray: Any, address: str, settings: dict[str, Any]) -> None:
    try:
        if match := re.fullmatch(r"(?:ray://)?\[?([^\[\]]+)\]?:(\d+)", address):
            # Ray itself goes on trying for many minutes.
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        ray.init(address=address, **settings)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(
            f"can't reach ray at {address}: {error}", "check --address, or leave it out"
        ) from error
