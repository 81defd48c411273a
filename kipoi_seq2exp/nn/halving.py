"""What happens when a batch of windows does not fit into the memory of a device.

Contract: a device that runs out of memory gets half as many windows from then on; the numbers then agree to rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from kipoi_seq2exp.errors import ConfigError

Window = TypeVar("Window")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class Halving(Generic[Window, Result]):
    """Predicts any number of windows, at most `limit` at once; an out-of-memory error of the device halves `limit`.

    Parameters
    ----------
    predict : callable
        Turns windows into as many results.
    limit : int
    """

    def __init__(self, predict: Callable[[Sequence[Window]], list[Result]], limit: int) -> None:
        self.predict, self.limit = predict, limit

    def __call__(self, windows: Sequence[Window]) -> list[Result]:
        """Return the results in the order of the windows.

        Raises
        ------
        ConfigError
            If the device has no room for a single window.
        """
        import torch

        results: list[Result] = []
        while len(results) < len(windows):
            piece = windows[len(results) : len(results) + self.limit]
            try:
                results += self.predict(piece)
                continue
            except torch.cuda.OutOfMemoryError as error:
                reason = str(error).split(". ")[0]
            if len(piece) == 1:  # here, outside the handler, the failed prediction's arrays are free
                raise ConfigError(
                    f"one window does not fit into the memory of the device ({reason}): use --device cpu."
                )
            self.limit = len(piece) // 2
            torch.cuda.empty_cache()
            logger.warning("out of memory at %d windows at once: %d from here on", len(piece), self.limit)
        return results
