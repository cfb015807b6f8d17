"""Collectives between processes, one a GPU over NCCL (or one a core over gloo): all-reduce, all-gather, reduce-scatter,
all-to-all, send and receive."""

from __future__ import annotations

import os
import queue
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from moesim.bench.log import Log
from moesim.bench.point import Point
from moesim.bench.session import Told
from moesim.bench.timing import Times
from moesim.bench.watch import Watch

_SAMPLES = 11
_WARM_UP = 5
_SAMPLE_S = 2e-3
_MOST_CALLS = 200
_PATIENCE_S = 60.0


def measure_collectives(
    points: Sequence[Point], log: Log, device: str, deadline: float, told: Told = lambda what, at: None
) -> None:
    """Measure points of the ``nccl`` table, group size by group size, until ``deadline`` (of ``time.monotonic``)."""
    todo = [p for p in points if p.table == "nccl" and p.key not in log.done]
    for ranks in sorted({int(p.columns["num_gpus"]) for p in todo}):
        left = deadline - time.monotonic()
        if left > 0:
            _group([p for p in todo if p.columns["num_gpus"] == ranks], ranks, log, device, left, told)


def _group(points: Sequence[Point], ranks: int, log: Log, device: str, left_s: float, told: Told) -> None:
    """One process a rank; rank 0 sends its rows back, and this process writes them."""
    import torch.multiprocessing as processes

    context = processes.get_context("spawn")
    answers, port = context.Queue(), _free_port()
    arguments = (ranks, [p.as_data() for p in points], device, port, left_s, answers)
    workers = [context.Process(target=_rank, args=(rank, *arguments), daemon=True) for rank in range(ranks)]
    for worker in workers:
        worker.start()
    waiting = list(points)
    by_key, watch_until = {p.key: p for p in points}, time.monotonic() + left_s + _PATIENCE_S
    try:
        while time.monotonic() < watch_until:
            try:
                key, row = answers.get(timeout=1.0)
            except queue.Empty:
                dead = [w.exitcode for w in workers if not w.is_alive() and w.exitcode]
                if dead and waiting:
                    log.add(waiting[0], {"failed": f"a rank died with exit code {dead[0]}", "at": time.time()})
                    told("failed", waiting[0])
                    return
                continue
            if key is None:
                return
            waiting = [p for p in waiting if p.key != key]
            log.add(by_key[key], row)
            told("failed" if "failed" in row else "unstable" if row["unstable"] else "measured", by_key[key])
    finally:
        for worker in workers:
            worker.join(timeout=5.0)
            worker.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _rank(
    rank: int, ranks: int, points: list[dict[str, Any]], device: str, port: int, left_s: float, answers: Any
) -> None:
    """What each process does; all take the same points in the same order and stop together."""
    import torch
    import torch.distributed as group

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place = f"cuda:{rank}" if device == "cuda" else "cpu"
    if device == "cuda":
        torch.cuda.set_device(rank)
    group.init_process_group("nccl" if device == "cuda" else "gloo", rank=rank, world_size=ranks)
    watch, begun = Watch(device), time.monotonic()
    for data in points:
        point = Point.of(data)
        # Rank 0's clock decides for all: a collective that one rank skips would hang the others.
        go_on = torch.tensor([float(time.monotonic() - begun < left_s)], device=place)
        group.broadcast(go_on, 0)
        if not go_on.item():
            break
        at = time.time()
        try:
            call = _call(point, rank, ranks, place)
            times, seen = watch.around(lambda call=call: _times(call, place, ranks))
            row = {"kernel_source": group.get_backend().upper(), "copies": 1, **asdict(times), **seen,
                   "took_s": time.time() - at, "at": at}  # fmt: skip
        except (RuntimeError, NotImplementedError, ValueError) as error:
            row = {"failed": f"{type(error).__name__}: {str(error)[:300]}", "at": at}
        if rank == 0:
            answers.put((point.key, row))
    if rank == 0:
        answers.put((None, {}))
    group.barrier()
    group.destroy_process_group()


def _call(point: Point, rank: int, ranks: int, place: str) -> Callable[[], Any]:
    """``message_bytes`` is the whole buffer of a rank, as nccl-tests counts it."""
    import torch
    import torch.distributed as group

    kind, many = point.columns["collective"], int(point.columns["message_bytes"]) // 2
    many += -many % ranks
    whole = torch.zeros(many, dtype=torch.bfloat16, device=place)
    part = torch.zeros(many // ranks, dtype=torch.bfloat16, device=place)
    if kind == "all_reduce":
        return lambda: group.all_reduce(whole)
    if kind == "all_gather":
        return lambda: group.all_gather_into_tensor(whole, part)
    if kind == "reduce_scatter":
        return lambda: group.reduce_scatter_tensor(part, whole)
    if kind == "alltoall":
        back = torch.empty_like(whole)
        return lambda: group.all_to_all_single(back, whole)
    if kind == "send_recv":
        pair = {0: (group.send, 1), 1: (group.recv, 0)}.get(rank)
        return (lambda: pair[0](whole, pair[1])) if pair else (lambda: None)
    raise ValueError(f"no collective '{kind}'")


def _times(call: Callable[[], Any], place: str, ranks: int) -> Times:
    """Calls back to back between barriers, by the clock of the slowest rank."""
    import torch
    import torch.distributed as group

    def run(many: int) -> float:
        group.barrier()
        if place != "cpu":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(many):
            call()
        if place != "cpu":
            torch.cuda.synchronize()
        took = torch.tensor([time.perf_counter() - begin], device=place)
        group.all_reduce(took, group.ReduceOp.MAX)
        return float(took.item())

    each = max(run(_WARM_UP) / _WARM_UP, 1e-7)
    many = int(min(_MOST_CALLS, max(1, _SAMPLE_S / each)))
    return Times.of([run(many) / many for _ in range(_SAMPLES)], many * _SAMPLES, "host clock of the slowest rank")
