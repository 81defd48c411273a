"""The last result of a function of tensors, given again while the tensors hold the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor


class Remembered:
    """Remembers one result, with copies of what it was computed from; copies of this object begin with nothing.

    Numbers are compared, not versions of tensors: whoever changes them, in whatever way, gets a new result.
    """

    def __init__(self) -> None:
        self._last: tuple[Hashable, list[Tensor], Tensor] | None = None

    def __reduce__(self) -> tuple[type[Remembered], tuple[()]]:
        return Remembered, ()

    def __call__(self, kind: Hashable, given: Sequence[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """Return compute(), or what it returned the last time.

        Parameters
        ----------
        kind : hashable
            What else the result depends on.
        given : sequence of Tensor
            Everything that `compute` reads and that may change.
        compute : callable
            Its result must not be changed by the caller.
        """
        last = self._last
        if last is not None and last[0] == kind and _alike(last[1], given):
            return last[2]
        result = compute()
        self._last = kind, [tensor.detach().clone() for tensor in given], result
        return result


def _alike(before: Sequence[Tensor], now: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are of the same types, on the same devices and hold the same numbers."""
    if len(before) != len(now):
        return False
    pairs = list(zip(before, now, strict=True))
    kinds = all((a.dtype, a.device, a.shape) == (b.dtype, b.device, b.shape) for a, b in pairs)
    return kinds and all(torch.equal(a, b) for a, b in pairs)
