"""The selective scan of Mamba, and the choice of the code that computes it.

    h_t = exp(delta_t * A) * h_(t-1) + delta_t * B_t * u_t          (state of one channel: N numbers)
    y_t = C_t . h_t + D * u_t

All arrays are channel-last. `reverse=True` runs from the last position to the first, without flipping anything.
`scan_reference` is the definition; every other implementation is tested against it, gradients included:

    reference   a loop over positions; slow, any dtype and device
    chunked     plain torch, exact, differentiable, any dtype and device, memory bounded by `segment`
    cpu         numba kernels, float32 on the CPU (see `cpu.scan`)
    cuda        mamba_ssm's kernels where that package is installed, else a Triton kernel (see `scan_cuda`)

Source: Gu and Dao 2023, arXiv 2312.00752, section 3.
"""

from __future__ import annotations

import enum
import os

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kipoi_seq2exp.errors import ConfigError, ShapeError
from kipoi_seq2exp.nn import scan_cuda
from kipoi_seq2exp.nn.cpu import scan as scan_cpu
from kipoi_seq2exp.settings import suggest

CHUNK = 64  # positions that one step of the chunked scan handles one after the other
SEGMENT = 8_192  # positions whose states may exist at the same time in the chunked scan


class Backend(str, enum.Enum):
    """The code that computes the scan; `AUTO` chooses by device and type."""

    AUTO = "auto"
    REFERENCE = "reference"
    CHUNKED = "chunked"
    CPU = "cpu"
    CUDA = "cuda"


def chosen_backend(u: Tensor, backend: Backend | str | None = None) -> Backend:
    """Return the backend that `selective_scan` will use for the input `u`.

    An explicit `backend` wins, then the environment variable ``SEQ2EXP_SCAN``, then the device and the type:
    float32 on the CPU goes to the numba kernels, CUDA to its kernels when there are any, all else to chunked torch.
    """
    name = backend or os.environ.get("SEQ2EXP_SCAN") or Backend.AUTO
    try:
        wanted = Backend(name)
    except ValueError:
        raise ConfigError(
            f"SEQ2EXP_SCAN: unknown scan '{name}'{suggest(str(name), [b.value for b in Backend])}."
        ) from None
    if wanted is Backend.AUTO:
        if u.device.type == "cpu" and u.dtype == torch.float32:
            return Backend.CPU
        return Backend.CUDA if scan_cuda.is_available(u) else Backend.CHUNKED
    if wanted is Backend.CPU and (u.device.type != "cpu" or u.dtype != torch.float32):
        raise ConfigError(f"the scan 'cpu' takes float32 on the CPU, found {u.dtype} on {u.device}: choose 'chunked'.")
    if wanted is Backend.CUDA and not scan_cuda.is_available(u):
        raise ConfigError("the scan 'cuda' needs a CUDA tensor and either mamba_ssm or triton: choose 'chunked'.")
    return wanted


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    reverse: bool = False,
    backend: Backend | str | None = None,
) -> Tensor:
    """Run the selective scan along the window.

    Parameters
    ----------
    u, delta : Tensor, (B, L, d_inner)
        Input, and step size after the softplus (> 0).
    A : Tensor, (d_inner, N)
        Decay rates, < 0.
    B, C : Tensor, (B, L, N)
        Input and output maps of the state.
    D : Tensor, (d_inner,)
        Weight of the direct path from `u` to `y`.
    reverse : bool
        Run from the end of the window to its start.
    backend : Backend or str, optional
        See `chosen_backend`.

    Returns
    -------
    Tensor, (B, L, d_inner)
        Differentiable with respect to every input.

    Raises
    ------
    ShapeError
        If the shapes do not agree.
    """
    _check_shapes(u, delta, A, B, C, D)
    match chosen_backend(u, backend):
        case Backend.CPU:
            return scan_cpu.scan(u, delta, A, B, C, D, reverse)
        case Backend.CUDA:
            return scan_cuda.scan(u, delta, A, B, C, D, reverse)
        case Backend.REFERENCE:
            return scan_reference(u, delta, A, B, C, D, reverse=reverse)
        case _:
            return scan_chunked(u, delta, A, B, C, D, reverse=reverse)


def _check_shapes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> None:
    batch, length, channels = u.shape
    states = A.shape[-1]
    expected = {
        "delta": (delta, (batch, length, channels)),
        "A": (A, (channels, states)),
        "B": (B, (batch, length, states)),
        "C": (C, (batch, length, states)),
        "D": (D, (channels,)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ShapeError(
                f"scan: {name} must have shape {shape} beside u {tuple(u.shape)}, found {tuple(tensor.shape)}."
            )


def scan_reference(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, reverse: bool = False
) -> Tensor:
    """Compute the scan position by position: the definition against which the fast ones are tested."""
    if reverse:
        flipped = (tensor.flip(1) for tensor in (u, delta, B, C))
        u_f, delta_f, B_f, C_f = flipped
        return scan_reference(u_f, delta_f, A, B_f, C_f, D).flip(1)
    state = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        state = decay * state + (delta[:, t] * u[:, t])[..., None] * B[:, t, None, :]
        outputs.append((state * C[:, t, None, :]).sum(-1) + D * u[:, t])
    return torch.stack(outputs, dim=1)


def scan_chunked(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    reverse: bool = False,
    chunk: int = CHUNK,
    segment: int = SEGMENT,
) -> Tensor:
    """Compute the scan with plain torch operations, many chunks side by side.

    The window is cut in segments (states of one segment exist at a time; recomputed in the backward) and each segment
    in chunks that advance together; a chunk's incoming state is added afterwards, decayed by the distance to it.
    """
    if reverse:
        u, delta, B, C = (tensor.flip(1) for tensor in (u, delta, B, C))
    state = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    outputs = []
    for start in range(0, u.shape[1], segment):
        stop = start + segment
        pieces = (u[:, start:stop], delta[:, start:stop], A, B[:, start:stop], C[:, start:stop], state, chunk)
        if torch.is_grad_enabled():
            y, state = checkpoint(_scan_segment, *pieces, use_reentrant=False)
        else:
            y, state = _scan_segment(*pieces)
        outputs.append(y)
    y = torch.cat(outputs, dim=1) + D * u
    return y.flip(1) if reverse else y


def _scan_segment(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Scan one segment from the incoming `state`; return (y without the direct path, outgoing state)."""
    length = u.shape[1]
    chunk = min(chunk, length)
    padding = -length % chunk  # delta = 0 leaves the state as it is

    def cut(tensor: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(tensor, (0, 0, 0, padding))
        return padded.reshape(tensor.shape[0], -1, chunk, tensor.shape[2])

    u_c, delta_c, B_c, C_c = cut(delta * u), cut(delta), cut(B), cut(C)
    local = u.new_zeros(*u_c.shape[:2], u.shape[2], A.shape[1])
    elapsed = delta_c.cumsum(2)  # what the decay from the start of the chunk depends on
    from_chunk = []
    for k in range(chunk):
        decay = torch.exp(delta_c[:, :, k, :, None] * A)
        local = decay * local + u_c[:, :, k, :, None] * B_c[:, :, k, None, :]
        from_chunk.append(torch.einsum("bcdn,bcn->bcd", local, C_c[:, :, k]))
    incoming = []
    through = torch.exp(elapsed[:, :, -1, :, None] * A)
    for c in range(local.shape[1]):
        incoming.append(state)
        state = through[:, c] * state + local[:, c]
    carried = torch.stack(incoming, dim=1)
    from_before = [
        torch.einsum("bcdn,bcn->bcd", torch.exp(elapsed[:, :, k, :, None] * A) * carried, C_c[:, :, k])
        for k in range(chunk)
    ]
    y = torch.stack(from_chunk, dim=2) + torch.stack(from_before, dim=2)
    return y.flatten(1, 2)[:, :length], state
