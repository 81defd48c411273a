"""The cache of compiled kernels: used when whole and ours, made anew when damaged, ignored when another's."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from kipoi_seq2exp.nn.cpu.kernel_cache import KernelCache, sources_digest

SOURCE = "def double(values, out):\n    for i in range(len(values)):\n        out[i] = 2 * values[i]\n"


@pytest.fixture
def compiled_double(tmp_path, monkeypatch):
    """Return what gives the function as a new process would: not compiled yet, with the cache of `tmp_path`."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    source = tmp_path / "kernels_of_a_test.py"
    source.write_text(SOURCE)

    def new_process():
        spec = importlib.util.spec_from_file_location("kernels_of_a_test", source)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "kernels_of_a_test", module)
        spec.loader.exec_module(module)
        dispatcher = numba.njit(module.double)
        dispatcher._cache = KernelCache(module.double)
        return dispatcher

    return new_process


def result_of(dispatcher):
    """Run it; return whether it came from the disk."""
    out = np.zeros(3)
    dispatcher(np.arange(3.0), out)
    assert out.tolist() == [0, 2, 4]
    return bool(sum(dispatcher.stats.cache_hits.values()))


def files(tmp_path, ending):
    return list((tmp_path / "cache").rglob(f"*{ending}"))


def test_the_second_process_compiles_nothing(compiled_double, tmp_path):
    assert not result_of(compiled_double())
    assert result_of(compiled_double())
    assert len(files(tmp_path, ".nbi")) == len(files(tmp_path, ".nbc")) == 1


@pytest.mark.parametrize("changed", ["other_kernels.py", "simd.py"])
def test_a_change_of_the_kernels_that_a_kernel_is_made_of_counts(compiled_double, tmp_path, changed):
    result_of(compiled_double())
    (tmp_path / changed).write_text("# numba looks at the kernel's own file alone\n")
    sources_digest.cache_clear()
    assert not result_of(compiled_double())
    assert result_of(compiled_double())


def damage(content):
    yield b""
    yield content[: len(content) // 2]
    yield b"garbage" * 100
    yield content[:200] + bytes([content[200] ^ 1]) + content[201:]  # one bit of the machine code


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_damaged_files_are_made_anew(compiled_double, tmp_path, ending):
    result_of(compiled_double())
    (path,) = files(tmp_path, ending)
    for content in damage(path.read_bytes()):
        path.write_bytes(content)
        assert not result_of(compiled_double())
        assert result_of(compiled_double())


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_a_file_of_another_user_is_not_even_unpickled(compiled_double, tmp_path, ending, monkeypatch):
    import hashlib

    result_of(compiled_double())
    (path,) = files(tmp_path, ending)
    content = pickle.dumps(Planted(tmp_path / "ran"))
    path.write_bytes(content + hashlib.sha256(content).digest())
    path.chmod(0o666)  # as good as another's, who cannot be had without being root
    assert not result_of(compiled_double())
    assert not (tmp_path / "ran").exists()


def test_a_disk_that_takes_nothing_costs_the_cache_alone(compiled_double, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.os.replace", full)
    assert not result_of(compiled_double())
    assert not result_of(compiled_double())


def test_the_kernels_use_this_cache():
    from kipoi_seq2exp.nn.cpu import backward_kernels, layer_kernels, scan_kernels, stem_kernels

    modules = (backward_kernels, layer_kernels, scan_kernels, stem_kernels)
    kernels = [thing for module in modules for thing in vars(module).values() if hasattr(thing, "py_func")]
    kernels = [kernel for kernel in kernels if kernel.targetoptions.get("nogil")]
    assert len(kernels) > 3
    if os.access(Path(scan_kernels.__file__).parent, os.W_OK):
        assert all(isinstance(kernel._cache, KernelCache) for kernel in kernels)
