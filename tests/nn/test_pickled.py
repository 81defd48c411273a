"""A checkpoint is data: nothing in it runs, and whatever is wrong with it is one sentence."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kipoi_seq2exp.config import Variant
from kipoi_seq2exp.errors import WeightsError
from kipoi_seq2exp.nn.authors import infer_settings, read_state
from kipoi_seq2exp.nn.pickled import Inert, read_pickled


class Evil:
    """Makes a file when it is unpickled by anything that runs what a pickle says."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def rewritten(path: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> Path:
    """Write the archive anew with members changed or added."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(name for name in members if name.endswith("data.pkl")).removesuffix("data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))
        for name, data in (extra or {}).items():
            archive.writestr(root + name, data)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_come_back_as_they_were(tmp_path: Path, dtype: torch.dtype) -> None:
    base = torch.arange(24).reshape(4, 6).to(dtype)
    saved = {"a": base, "turned": base.t(), "part": base[1:3, ::2], "none": base[:0], "one": base[0, 0]}
    parameter = torch.nn.Parameter(torch.rand(3))
    found = read_pickled(save(tmp_path / "w.pt", {**saved, "parameter": parameter}))
    for name, value in saved.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], value)
    assert torch.equal(found["parameter"], parameter)


def test_nothing_in_a_checkpoint_runs(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    content = {"state_dict": {"model.a": torch.ones(2)}, "hyper_parameters": Evil(target)}
    path = save(tmp_path / "w.ckpt", content)
    pickle.loads(pickle.dumps(Evil(target)))
    assert target.exists()  # it does run where a pickle is simply loaded
    target.unlink()
    assert isinstance(read_pickled(path)["hyper_parameters"], Inert)
    assert list(read_state(path)) == ["a"]
    assert not target.exists()


@pytest.mark.parametrize("member", ["code/__torch__.py", "constants.pkl", "extra/files"])
def test_torchscript_is_refused_before_torch_sees_it(tmp_path: Path, member: str) -> None:
    path = save(tmp_path / "w.pt", {"a": torch.ones(2)})
    rewritten(path, lambda _, data: data, {member: b"def forward(self): ..."})
    with pytest.raises(WeightsError, match=r"a TorchScript archive .* programs in files are never run"):
        read_state(path)


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def lying_storage(path: Path) -> None:
    rewritten(path, lambda name, data: data + b"1234" if "/data/" in name else data)


def big_endian(path: Path) -> None:
    rewritten(path, lambda name, data: b"big" if name.endswith("byteorder") else data)


def outside(path: Path) -> None:
    """A tensor of 2 numbers that says it has 3."""
    rewritten(path, lambda name, data: data.replace(b"K\x02\x85", b"K\x03\x85") if name.endswith("data.pkl") else data)


def two_pickles(path: Path) -> None:
    rewritten(path, lambda _, data: data, {"data/data.pkl": b""})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def legacy(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (compressed, "is compressed, which PyTorch never does"),
        (lying_storage, "not the size declared"),
        (big_endian, "big-endian"),
        (outside, "does not lie inside its numbers"),
        (two_pickles, "holds 2 files data.pkl"),
        (cut, "not a checkpoint of PyTorch 1.6 or later"),
        (legacy, "not a checkpoint of PyTorch 1.6 or later"),
    ],
)
def test_damaged_archives_are_one_sentence(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    path = save(tmp_path / "w.pt", {"a": torch.ones(2)})
    damage(path)
    with pytest.raises(WeightsError, match=message) as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({1: torch.ones(1)}, "a parameter's name is 1, not a text"),
        ({"a": 3.0}, "'a' is not a tensor"),
        ({}, "holds no 'state_dict'"),
        ([torch.ones(1)], "holds no 'state_dict'"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_state(save(tmp_path / "w.pt", content))


def test_a_layer_of_a_giant_number_does_not_hang() -> None:
    names = ("seq_input_layer.weight", "signal_input_layer.weight", "pToExpr.0.weight")
    state = {
        **{name: torch.ones(4, 8) for name in names},
        "encoder.backbone.layers.999999999.norm.weight": torch.ones(4),
    }
    with pytest.raises(WeightsError, match="names layer 999,999,999 of the encoder"):
        infer_settings(state, Variant.SOFT)


def test_every_kind_of_pickle_byte_is_a_sentence_or_data(tmp_path: Path) -> None:
    """Each byte of a small pickle changed in turn: an error of ours, or something that is read."""
    path = save(tmp_path / "w.pt", {"a": torch.ones(2)})
    with zipfile.ZipFile(path) as archive:
        original = archive.read("w/data.pkl")
    for at in range(len(original)):
        damaged = original[:at] + bytes([original[at] ^ 0x15]) + original[at + 1 :]
        rewritten(path, lambda name, data, new=damaged: new if name.endswith("data.pkl") else data)
        try:
            read_pickled(path)
        except WeightsError:
            continue
