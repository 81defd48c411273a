"""The kernels compiled for older processors: the same numbers, within rounding, without AVX-512 and without FMA."""

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

HASWELL = (
    "+avx,+avx2,+bmi,+bmi2,+cmov,+cx16,+f16c,+fma,+lzcnt,+mmx,+movbe,+popcnt,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3"
)


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


@pytest.mark.parametrize(("processor", "features"), [("x86-64", "+sse,+sse2"), ("haswell", HASWELL)])
def test_same_numbers_on_an_older_processor(processor: str, features: str, tmp_path: Path) -> None:
    if features == HASWELL and "avx2" not in _flags():
        pytest.skip("this processor has no AVX2")
    restricted = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, __file__, str(tmp_path / "numbers.npz")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), **restricted}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"compiled for {processor}" in done.stdout
    here = numbers()
    with np.load(tmp_path / "numbers.npz") as there:
        assert set(there.files) == set(here)
        for name, values in here.items():
            np.testing.assert_allclose(there[name], values, rtol=1e-4, atol=2e-5 * np.abs(values).max(), err_msg=name)


def _flags() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    from numba.core.registry import cpu_target

    from kipoi_seq2exp.nn import scan_kernels

    np.savez(sys.argv[1], **numbers())
    name, features = cpu_target.target_context.codegen().magic_tuple()[1:3]
    assert ("zmm" in "".join(scan_kernels.scan_forward.inspect_asm().values())) is ("avx512f" in features)
    sys.stdout.write(f"compiled for {name}\n")
