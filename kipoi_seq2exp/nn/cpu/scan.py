"""The scan on the CPU: torch tensors in and out of the numba kernels, threads, and the gradient.

Threads follow ``torch.get_num_threads()``: each takes a range of channels (the kernels hold no lock). The pool belongs
to the process that made it, so a forked worker makes its own.
"""

from __future__ import annotations

import itertools
import math
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

LOG2_E = math.log2(math.e)
WIDTH, STATES = 16, 4  # channels of one vector, and states that the backward takes at a time: see `simd`
LARGE = 2**20  # numbers: a huge page holds half as many
KEPT = 2**28  # numbers at most, 1 GiB, that `empty` keeps for the next large tensors
Array = NDArray[np.float32]

_pools: dict[tuple[int, str, int], ThreadPoolExecutor] = {}
_kept: dict[int, Array] = {}


def run_parallel(tasks: Sequence[Callable[[], None]], pool: str = "scan") -> None:
    """Run the tasks on this process's threads and wait; the first error is raised here.

    Tasks that run tasks themselves must name another `pool` for these: a thread that waits takes no new work.
    """
    if len(tasks) == 1:
        tasks[0]()
        return
    key = (os.getpid(), pool, len(tasks))
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(len(tasks), thread_name_prefix=f"seq2exp-{pool}")
    for future in [_pools[key].submit(task) for task in tasks]:
        future.result()


def run_queue(tasks: Sequence[Callable[[], None]], threads: int, pool: str = "scan") -> None:
    """Run many tasks on a few threads (see `run_parallel`), each of which takes the next one."""
    queue = iter(tasks)

    def work() -> None:
        for task in queue:
            task()

    run_parallel([work] * min(len(tasks), threads), pool)


def empty(*shape: int) -> Tensor:
    """Make an uninitialised float32 tensor; a large one lies in huge pages where Linux gives them on request.

    A fresh array of 400 MB is 100,000 page faults from torch's allocator, and 900 from NumPy's, which asks. NumPy's
    begins anywhere, and vectors that straddle two cache lines make a scan slower by a third: so it begins at 64 bytes,
    where torch's begin, whose small ones cost a tenth.

    To touch a fresh page is slow too, in a virtual machine above all (2 GB a second where its host has taken the page
    back: a tenth of a prediction). So the memory of a large tensor that nobody uses any more is lent again.
    """
    count = math.prod(shape)
    if count < LARGE:
        return torch.empty(shape)
    memory = _take(count + WIDTH)
    skipped = -memory.ctypes.data % (4 * WIDTH) // 4
    numbers = memory[skipped : skipped + count].reshape(shape)
    weakref.finalize(numbers, _give_back, memory).atexit = False  # the tensor and its views hold `numbers`
    return torch.from_numpy(numbers)


def _take(count: int) -> Array:
    """Return memory for that many numbers: kept one that is not much larger, else fresh, and what is kept goes."""
    for key, memory in list(_kept.items()):
        if (
            count <= memory.size <= count + count // 4 and _kept.pop(key, None) is not None
        ):  # another thread may be first
            return memory
    _kept.clear()
    return np.empty(count, np.float32)


def _give_back(memory: Array) -> None:
    if memory.size + sum(kept.size for kept in list(_kept.values())) <= KEPT:
        _kept[id(memory)] = memory


def channel_ranges(channels: int, threads: int | None = None) -> list[tuple[int, int]]:
    """Cut the channels, a multiple of 16, in one range a thread (default: torch's threads)."""
    blocks = channels // WIDTH
    threads = min(threads or torch.get_num_threads(), blocks)
    edges = [WIDTH * (blocks * i // threads) for i in range(threads + 1)]
    return list(itertools.pairwise(edges))


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, reverse: bool) -> Tensor:
    """Run the scan on float32 CPU tensors (shapes as in `scan.selective_scan`), differentiably."""
    channels, states = -u.shape[2] % WIDTH, -A.shape[1] % STATES  # missing to whole vectors
    if channels or states:
        u, delta = (functional.pad(tensor, (0, channels)) for tensor in (u, delta))
        A, D = functional.pad(A, (0, states, 0, channels)), functional.pad(D, (0, channels))
        B, C = (functional.pad(tensor, (0, states)) for tensor in (B, C))
    y: Tensor = _Scan.apply(u, delta, A, B, C, D, reverse)  # type: ignore[no-untyped-call]
    return y[..., : y.shape[2] - channels] if channels else y


class _Scan(torch.autograd.Function):
    """Joins the forward and the backward kernel; keeps the inputs and one state in 32."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, reverse: bool
    ) -> Tensor:
        from kipoi_seq2exp.nn.cpu.scan_kernels import CHUNK, scan_forward

        u, delta, B, C = (tensor.detach().contiguous() for tensor in (u, delta, B, C))
        A2 = (A.detach().t() * LOG2_E).contiguous()
        D = D.detach()[None].contiguous()
        batch, length, channels = u.shape
        y = empty(*u.shape)
        chunks = -(-length // CHUNK) if any(ctx.needs_input_grad) else 0
        saved = empty(batch, chunks, *A2.shape)
        state = torch.zeros(batch, *A2.shape)
        arrays = [tensor.numpy() for tensor in (u, delta, A2, B, C, D, y, state, saved)]

        def task(span: tuple[int, int]) -> None:
            u_, delta_, A2_, B_, C_, D_, y_, state_, saved_ = arrays
            for b in range(batch):
                inputs = (u_[b], delta_[b], A2_, B_[b], C_[b], D_)
                scan_forward(inputs, y_[b], state_[b], saved_[b], span, reverse)

        run_parallel([lambda span=span: task(span) for span in channel_ranges(channels)])  # type: ignore[misc]
        ctx.save_for_backward(u, delta, A2, B, C, D, saved)
        ctx.reverse = reverse
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        from kipoi_seq2exp.nn.cpu.scan_kernels import scan_backward

        dy = gradients[0].contiguous().numpy()
        inputs = [tensor.numpy() for tensor in ctx.saved_tensors]
        u, _, A2, B, _, D, _ = inputs
        no_output = np.empty((0, u.shape[2]), np.float32)
        du, ddelta = (empty(*u.shape).numpy() for _ in range(2))
        dA, dD = np.zeros((u.shape[0], *A2.shape), np.float32), np.zeros((u.shape[0], *D.shape), np.float32)
        spans = channel_ranges(u.shape[2])
        dB, dC = (np.zeros((len(spans), *B.shape), np.float32) for _ in range(2))
        carried = np.zeros((u.shape[0], *A2.shape), np.float32)

        def task(thread: int) -> None:
            u_, delta_, A2_, B_, C_, D_, saved_ = inputs
            for b in range(u_.shape[0]):
                window = (u_[b], delta_[b], A2_, B_[b], C_[b], D_)
                own = (du[b], ddelta[b], dA[b], dB[thread, b], dC[thread, b], dD[b])
                scan_backward(window, saved_[b], dy[b], own, carried[b], no_output, spans[thread], ctx.reverse)

        run_parallel([lambda i=i: task(i) for i in range(len(spans))])  # type: ignore[misc]
        outputs = (du, ddelta, dA.sum(0).T, dB.sum(0), dC.sum(0), dD.sum(0)[0])
        return (*(torch.as_tensor(array) for array in outputs), None)
