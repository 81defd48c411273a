"""The kernels compiled for the oldest x86-64 processors: the same numbers, within rounding, without AVX-512 or FMA."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kipoi_seq2exp import NetworkConfig
from kipoi_seq2exp.nn.mamba import MambaStack
from kipoi_seq2exp.nn.scan import Backend, chosen_backend

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors")


def numbers() -> dict[str, np.ndarray]:
    """Outputs of a streamed stack, and its output and gradients in training."""
    torch.manual_seed(0)
    stack = MambaStack(NetworkConfig(d_model=24, d_state=5, expand=2), 1)
    hidden = torch.randn(1, 150, 24)
    assert chosen_backend(hidden) is Backend.CPU
    with torch.no_grad():
        streamed = stack.eval()(hidden)
    out = stack.train()(hidden)
    (out * out.detach().cos()).sum().backward()
    gradients = {name: p.grad.numpy() for name, p in stack.named_parameters() if p.grad is not None}
    return {"streamed": streamed.numpy(), "trained": out.detach().numpy(), **gradients}


def test_same_numbers_on_an_older_processor(tmp_path: Path) -> None:
    restricted = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse,+sse2", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, __file__, str(tmp_path / "numbers.npz")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3]), **restricted}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "compiled for x86-64" in done.stdout
    here = numbers()
    with np.load(tmp_path / "numbers.npz") as there:
        assert set(there.files) == set(here)
        for name, values in here.items():
            np.testing.assert_allclose(there[name], values, rtol=1e-4, atol=2e-5 * np.abs(values).max(), err_msg=name)


if __name__ == "__main__":
    from numba.core.registry import cpu_target

    from kipoi_seq2exp.nn.cpu import scan_kernels

    np.savez(sys.argv[1], **numbers())
    name, features = cpu_target.target_context.codegen().magic_tuple()[1:3]
    assert ("zmm" in "".join(scan_kernels.scan_forward.inspect_asm().values())) is ("avx512f" in features)
    sys.stdout.write(f"compiled for {name}\n")
