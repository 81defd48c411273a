"""How many windows at once: amounts of memory, control groups, what fits, and a device that runs out of memory."""

from __future__ import annotations

import pytest
import torch
from small_runs import command_line, small_request

from kipoi_seq2exp import NetworkConfig
from kipoi_seq2exp.cli import main
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.nn.halving import Halving
from kipoi_seq2exp.prediction import batches as module
from kipoi_seq2exp.prediction.batches import LARGEST, cpu_bytes, fitting_batch, free_memory, parse_bytes
from kipoi_seq2exp.prediction.request import inputs_of, open_dataset, open_model
from kipoi_seq2exp.prediction.run import batch_size_for, fill_store, predict_windows, prepare
from kipoi_seq2exp.prediction.store import STORE_NAME, read_predictions

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("text", "amount"),
    [("8GB", 8e9), ("500 MB", 5e8), ("1.5GiB", 1.5 * 2**30), ("64k", 64e3), ("2t", 2e12), ("123", 123)],
)
def test_amounts_of_memory(text, amount):
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["lots", "", "0GB", "-1GB", "8XB", "8 G B"])
def test_no_amount_of_memory(text):
    with pytest.raises(ConfigError, match=f"'{text}' is not an amount of memory: give one such as 8GB"):
        parse_bytes(text)


# -------------------------------------------------------------------------------------------------- what there is


def write_group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(f"{text}\n")


def test_the_tightest_control_group_counts(tmp_path, monkeypatch):
    root = tmp_path / "cgroup"
    write_group(root / "slurm", max=3_000_000, current=1_200_000, stat="anon 5\ninactive_file 200000")
    write_group(root / "slurm" / "job", max="max", current=900, stat="inactive_file 0")
    (tmp_path / "ours").write_text("0::/slurm/job\n")
    monkeypatch.setattr(module, "_CGROUPS", root)
    monkeypatch.setattr(module, "_MEMBERSHIP", tmp_path / "ours")
    assert free_memory(CPU) == 2_000_000
    write_group(root / "slurm" / "job", max=1_000)
    assert free_memory(CPU) == 100
    write_group(root / "slurm" / "job", current=5_000)
    assert free_memory(CPU) == 0


def test_control_groups_of_the_first_version(tmp_path, monkeypatch):
    write_group(
        tmp_path / "memory" / "job", limit_in_bytes=7_000, usage_in_bytes=3_000, stat="total_inactive_file 1000"
    )
    (tmp_path / "ours").write_text("9:cpu:/elsewhere\n4:memory:/job\n")
    monkeypatch.setattr(module, "_CGROUPS", tmp_path)
    monkeypatch.setattr(module, "_MEMBERSHIP", tmp_path / "ours")
    assert free_memory(CPU) == 5_000


def test_without_control_groups_it_is_what_the_machine_has(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MEMBERSHIP", tmp_path / "absent")
    assert 1e6 < free_memory(CPU) < 1e14


# ------------------------------------------------------------------------------------------------------ what fits


@pytest.fixture
def ten_gigabytes(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda device: int(10e9))


@pytest.mark.parametrize(
    ("cost", "most", "size"), [(1e9, None, 8), (1e9, 3e9, 3), (1e9, 50e9, 8), (0, None, LARGEST), (6e9, None, 1)]
)
def test_as_many_windows_as_fit_on_a_gpu(ten_gigabytes, cost, most, size):
    assert fitting_batch(NetworkConfig(), CUDA, lambda: int(cost), most) == size


def test_one_window_at_once_on_the_cpu(ten_gigabytes):
    assert fitting_batch(NetworkConfig(window_bp=4_000), CPU, pytest.fail, None) == 1


def test_a_window_that_does_not_fit(ten_gigabytes, caplog):
    with pytest.raises(ConfigError, match=r"one window of this network takes 4 GB, more than --memory allows"):
        fitting_batch(NetworkConfig(), CUDA, lambda: int(4e9), int(3e9))
    assert fitting_batch(NetworkConfig(), CUDA, lambda: int(12e9), None) == 1
    assert "one window takes about 12 GB, and only 10 GB are free" in caplog.text


def test_a_window_costs_as_its_length_and_width():
    sizes = ((4_000, 16), (8_000, 16), (4_000, 64))
    small, long, wide = (cpu_bytes(NetworkConfig(window_bp=bp, d_model=d)) for bp, d in sizes)
    assert long == 2 * small
    assert 3 * small < wide < 4 * small


def test_a_batch_that_was_chosen_is_kept_when_the_run_goes_on(tiny, weights, tmp_path):
    request = small_request(tiny, weights, batch_size=3)
    prepare(request, tmp_path)
    auto = small_request(tiny, weights, auto_batch=True)
    assert prepare(auto, tmp_path).request.batch_size == 3
    assert prepare(auto, tmp_path, overwrite=True).request.batch_size == 1
    assert prepare(request, tmp_path).store.batch_size == 3


def test_another_machines_gpu_gets_several_windows(tiny, weights, tmp_path):
    run = prepare(small_request(tiny, weights, auto_batch=True, device="cuda"), tmp_path / "gpu", elsewhere=True)
    assert run.request.batch_size == 8
    assert run.store.request["device"] == "cuda"
    assert next(run.model.parameters()).device == CPU
    cpu = prepare(small_request(tiny, weights, auto_batch=True, device=None), tmp_path / "cpu", elsewhere=True)
    assert (cpu.request.batch_size, cpu.request.device) == (1, "cpu")


def test_what_is_measured_is_a_real_prediction(tiny, weights, monkeypatch):
    request = small_request(tiny, weights, auto_batch=True)
    model, _ = open_model(request)
    found = []

    def measure(config, device, measured, most):
        found.append(measured())
        return 5

    monkeypatch.setattr("kipoi_seq2exp.prediction.run.fitting_batch", measure)
    monkeypatch.setattr("kipoi_seq2exp.prediction.run.cuda_bytes", lambda device, predict: predict())
    with open_dataset(request, inputs_of(model, None)) as dataset:
        assert batch_size_for(request, model, dataset) == 5
        expected = predict_windows(model, [dataset[0]])[0].expression
        assert batch_size_for(small_request(tiny, weights, batch_size=2), model, dataset) == 2
    assert [row.expression for rows in found for row in rows] == [expected]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--memory", "1KB", "one window of this network takes"), ("--memory", "lots", "'lots' is not an amount of memo")],
)
def test_misuse_is_one_sentence_and_writes_nothing(tiny, weights, tmp_path, capsys, option, value, message):
    assert main(command_line(tiny, weights, tmp_path / "r", option, value)) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "r").exists()


# ------------------------------------------------------------------------------------------------- running out of it


class Device:
    """A stand-in that has room for some windows at once, and notes what it was asked for."""

    def __init__(self, room):
        self.room, self.asked = room, []

    def __call__(self, windows):
        self.asked.append(len(windows))
        if len(windows) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return [10 * window for window in windows]


def test_out_of_memory_halves_the_batch_and_goes_on(caplog):
    device = Device(room=3)
    halving = Halving(device, limit=8)
    assert halving(list(range(9))) == [10 * i for i in range(9)]
    assert device.asked == [8, 4, 2, 2, 2, 2, 1]
    assert halving(list(range(3))) == [0, 10, 20]
    assert device.asked[-2:] == [2, 1]  # it stays so
    assert "out of memory at 8 windows at once: 4 from here on" in caplog.text
    assert "out of memory at 4 windows at once: 2 from here on" in caplog.text


def test_out_of_memory_for_a_single_window():
    with pytest.raises(ConfigError, match=r"one window does not fit .*\(CUDA out of memory\): use --device cpu"):
        Halving(Device(room=0), limit=4)([1, 2])


def test_other_faults_are_not_taken_for_a_lack_of_memory():
    def fault(windows):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        Halving(fault, limit=4)([1, 2])


def test_a_run_whose_device_is_too_small_for_its_batches(tiny, weights, tmp_path, monkeypatch, caplog):
    fill_store(prepare(small_request(tiny, weights, batch_size=4), tmp_path / "roomy"))

    def small(model, windows, *rest):
        Device(room=1)(range(len(windows)))
        return predict_windows(model, windows, *rest)

    monkeypatch.setattr("kipoi_seq2exp.prediction.run.predict_windows", small)
    fill_store(prepare(small_request(tiny, weights, batch_size=4), tmp_path / "small"))
    assert caplog.text.count("from here on") == 2  # 4 to 2, 2 to 1, once for the run
    stores = [tmp_path / name / STORE_NAME for name in ("roomy", "small")]
    roomy, small = ({str(p.relative_to(s)): p.read_bytes() for p in s.rglob("*") if p.is_file()} for s in stores)
    assert small == roomy
    with read_predictions(stores[1]) as found:
        assert len(found) == 7
