"""The bidirectional Mamba stack: RMSNorm, one mixer that reads the window in both directions, residual.

One layer of the published network computes ``fwd(n) + flip(rev(flip(n)))`` with the input and output projections tied
between the directions. Both are linear and the gate is shared, so we compute them once:

    x, z = in_proj(n)
    y    = scan(conv(x)) left to right  +  scan(conv(x)) right to left      (own convolution and scan parameters)
    out  = out_proj(y * silu(z))

`d_inner` is the width inside the mixer, `dt_rank` the rank of the step-size projection, `d_state` the states per
channel. Source: Gu and Dao 2023 (arXiv 2312.00752); bidirectional form of Schiff et al. 2024 (arXiv 2403.03234).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook as has_global_hooks
from torch.utils.checkpoint import checkpoint

from kipoi_seq2exp.config import NetworkConfig, Products
from kipoi_seq2exp.nn.cpu.backward import train_stack
from kipoi_seq2exp.nn.cpu.forward import can_stream, stream_stack
from kipoi_seq2exp.nn.scan import Backend, chosen_backend, selective_scan

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4  # initial step sizes (Mamba, appendix)


class DirectedScan(nn.Module):
    """Convolution and selective scan in one direction; the part of a mixer that is not shared.

    Parameters
    ----------
    config : NetworkConfig
        Gives d_inner, d_state, d_conv and dt_rank.
    reverse : bool
        Read the window from its end to its start.
    """

    def __init__(self, config: NetworkConfig, *, reverse: bool) -> None:
        super().__init__()
        self.reverse = reverse
        self.dt_rank, self.d_state = config.dt_rank, config.d_state
        bound = 1 / math.sqrt(config.d_conv)
        self.conv_weight = nn.Parameter(torch.empty(config.d_inner, config.d_conv).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(config.d_inner).uniform_(-bound, bound))
        self.x_proj = nn.Linear(config.d_inner, config.dt_rank + 2 * config.d_state, bias=False)
        self.dt_proj = nn.Linear(config.dt_rank, config.d_inner)
        self.A_log = nn.Parameter(torch.arange(1.0, config.d_state + 1).log().repeat(config.d_inner, 1))
        self.D = nn.Parameter(torch.ones(config.d_inner))
        self._initialise_steps(DT_MIN if config.memory_bp is None else config.token_bp / config.memory_bp)

    def _initialise_steps(self, shortest: float) -> None:
        """Draw the initial step sizes log-uniformly, as Mamba does.

        A state that decays at A = -1 forgets over 1 / step positions: `shortest` sets how far a layer reaches.
        """
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        longest = max(DT_MAX, shortest)
        steps = torch.exp(torch.empty_like(self.dt_proj.bias).uniform_(math.log(shortest), math.log(longest)))
        steps = steps.clamp(min=min(DT_FLOOR, shortest))
        with torch.no_grad():
            self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # inverse of softplus

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, d_inner) to (B, L, d_inner)."""
        u = functional.silu(self.convolve(x))
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = functional.softplus(self.dt_proj(dt).float() if u.dtype != torch.float64 else self.dt_proj(dt))
        scan_type = delta.dtype
        A = -torch.exp(self.A_log.to(scan_type))
        return selective_scan(
            u.to(scan_type), delta, A, B.to(scan_type), C.to(scan_type), self.D.to(scan_type), reverse=self.reverse
        )

    def convolve(self, x: Tensor) -> Tensor:
        """Depthwise convolution over the current base and the d_conv - 1 before it in the reading direction."""
        width = self.conv_weight.shape[1]
        weight = self.conv_weight.flip(1) if self.reverse else self.conv_weight
        padding = (0, width - 1) if self.reverse else (width - 1, 0)
        padded = functional.pad(x.transpose(1, 2), padding)
        return functional.conv1d(
            padded, weight[:, None].to(x.dtype), self.conv_bias.to(x.dtype), groups=x.shape[2]
        ).transpose(1, 2)


class BiMambaLayer(nn.Module):
    """Pre-norm, both directions with tied projections (no residual: the stack carries it)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.in_proj = nn.Linear(config.d_model, 2 * config.d_inner, bias=False)
        self.forward_scan = DirectedScan(config, reverse=False)
        self.reverse_scan = DirectedScan(config, reverse=True)
        self.out_proj = nn.Linear(config.d_inner, config.d_model, bias=False)

    def forward(self, residual: Tensor) -> Tensor:
        """Map the residual stream (B, L, D) to the layer's contribution to it, (B, L, D)."""
        x, z = self.in_proj(self.norm(residual)).chunk(2, dim=-1)
        x = x.contiguous()  # once for both directions
        y = self.forward_scan(x) + self.reverse_scan(x)
        out: Tensor = self.out_proj((y * functional.silu(z)).to(z.dtype))
        return out


class MambaStack(nn.Module):
    """A stack of bidirectional layers with a residual stream and a final norm.

    Parameters
    ----------
    config : NetworkConfig
        Gives the widths.
    n_layers : int
        Number of layers.
    """

    def __init__(self, config: NetworkConfig, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(BiMambaLayer(config) for _ in range(n_layers))
        self.final_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.d_inner = config.d_inner
        self.products = Products.FLOAT32
        self.checkpoint_layers = False  # training off the CPU: recompute layers in the backward, as streamed ones are
        self._initialise(n_layers)

    def _initialise(self, n_layers: int) -> None:
        """Scale the projections into the residual stream by its depth (GPT-2's rule, used by Mamba)."""
        with torch.no_grad():
            for layer in self.layers:
                assert isinstance(layer, BiMambaLayer)  # for the type checker
                nn.init.kaiming_uniform_(layer.out_proj.weight, a=math.sqrt(5))
                layer.out_proj.weight /= math.sqrt(n_layers)

    def forward(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """Map (B, L, D) to (B, L, D), or to those `rows` of it alone.

        In float32 on the CPU, windows are streamed (see `cpu.forward`, and `cpu.backward` for gradients),
        past the modules inside; where one of them has a hook, they all run one after the other.
        """
        rows = rows or slice(0, hidden.shape[1])
        if not has_hooks(self) and can_stream(hidden, self.d_inner) and chosen_backend(hidden) is Backend.CPU:
            if torch.is_grad_enabled():
                return self._normalised(train_stack(self.layers, hidden, rows))
            return stream_stack(self.layers, self.final_norm, hidden, rows, self.products)
        residual = hidden
        for layer in self.layers:
            if self.checkpoint_layers and torch.is_grad_enabled():
                residual = residual + checkpoint(layer, residual, use_reentrant=False)
            else:
                residual = residual + layer(residual)
        return self._normalised(residual[:, rows])

    def _normalised(self, residual: Tensor) -> Tensor:
        out: Tensor = self.final_norm(residual)
        return out


def has_hooks(stack: nn.Module) -> bool:
    """Whether a module inside has a hook of its own, or there is one for all modules."""
    if has_global_hooks():
        return True
    waiting = list(stack._modules.values())  # not `modules()`, which costs more than a layer of a small network
    while waiting:
        module = waiting.pop()
        if module is None:
            continue
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return True
        waiting += module._modules.values()
    return False


@contextmanager
def recomputed_layers(model: nn.Module) -> Iterator[None]:
    """Keep the intermediates of one layer at a time in a gradient: those of a whole stack at 200 kb take tens of GB.

    On the CPU in float32 the layers are streamed, and recomputed in any case.
    """
    stacks = {module: module.checkpoint_layers for module in model.modules() if isinstance(module, MambaStack)}
    for stack in stacks:
        stack.checkpoint_layers = True
    try:
        yield
    finally:
        for stack, before in stacks.items():
            stack.checkpoint_layers = before
