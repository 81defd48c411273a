"""Predictions on several processes: one is killed, the terminal interrupts, files differ, jobs of SLURM come and go."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
import warm
from small_runs import command_line, genes_done, small_request

from kipoi_seq2exp.cli import INTERRUPTED
from kipoi_seq2exp.errors import ClusterError, ConfigError, InputError
from kipoi_seq2exp.prediction import cluster as module
from kipoi_seq2exp.prediction import cluster_access
from kipoi_seq2exp.prediction.cluster import Cluster, parse_cluster
from kipoi_seq2exp.prediction.cluster_access import check_scheduler
from kipoi_seq2exp.prediction.run import fill_store, prepare
from kipoi_seq2exp.prediction.slurm import FREE_PORT
from kipoi_seq2exp.prediction.store import STORE_NAME, PredictionStore

distributed = pytest.importorskip("distributed")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Have the keys of jobs put into a folder of the test; they are gone when it ends."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    assert not list(tmp_path.glob("cache/kipoi_seq2exp/*"))


@pytest.fixture(scope="module")
def whole_run(tiny, weights, tmp_path_factory):
    """Return the bytes of a store that one process filled."""
    folder = tmp_path_factory.mktemp("whole")
    fill_store(prepare(small_request(tiny, weights, save_beta=True), folder))
    return bytes_of(folder)


@pytest.fixture(scope="module")
def workers():
    """Two processes, started as `--cluster local:2` does."""
    with parse_cluster("local:2").open() as opened:
        yield opened


def bytes_of(folder):
    store = folder / STORE_NAME
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def start(tiny, weights, folder, **changes):
    return prepare(small_request(tiny, weights, save_beta=True, **changes), folder, elsewhere=True)


# --------------------------------------------------------------------------------------------------------- the numbers


def test_a_worker_is_killed_and_every_gene_is_there_once(
    tiny, weights, whole_run, workers, tmp_path, monkeypatch, caplog
):
    write, written = PredictionStore.write, []

    def noted(self, index, row):
        written.append(index)
        write(self, index, row)

    monkeypatch.setattr(PredictionStore, "write", noted)
    killed = []

    def kill_one(progress):
        if progress.done == 1:
            processes = workers.client.run(os.getpid)
            assert len(processes) == 2
            victim = sorted(processes)[0]
            assert workers.client.processing()[victim] or workers.client.has_what()[victim]  # batches are lost with it
            os.kill(processes[victim], signal.SIGKILL)
            killed.append(victim)

    end = fill_store(start(tiny, weights, tmp_path), kill_one, workers)
    assert (end.done, end.total, end.resumed) == (7, 7, 0)
    assert sorted(written) == list(range(7))
    assert bytes_of(tmp_path) == whole_run
    assert f"worker {killed[0]} was lost" in caplog.text


def test_a_run_goes_on_elsewhere_and_by_the_address_of_the_scheduler(tiny, weights, whole_run, workers, tmp_path):
    def stop(progress):
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_store(prepare(small_request(tiny, weights, save_beta=True), tmp_path), stop)
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": FREE_PORT}
    with (
        distributed.LocalCluster(**options, host="127.0.0.1", protocol="tcp") as theirs,
        distributed.Client(theirs, set_as_default=False) as client,
    ):
        with parse_cluster(theirs.scheduler_address).open() as joined:
            end = fill_store(start(tiny, weights, tmp_path), None, joined)
        assert (end.done, end.resumed) == (7, 3)
        assert bytes_of(tmp_path) == whole_run
        assert client.nthreads()  # who joined does not end what others started
        assert not any(name.startswith("seq2exp") for names in plugins(client).values() for name in names)
        (worker,) = client.nthreads()
        with pytest.raises(ClusterError, match="a Dask worker answers, not a scheduler"):
            check_scheduler(worker)


def plugins(client):
    return client.run(lambda dask_worker: list(dask_worker.plugins))


def test_batches_of_several_genes_and_nothing_left_to_do(tiny, weights, workers, tmp_path):
    fill_store(prepare(small_request(tiny, weights, save_beta=True, batch_size=3), tmp_path / "here"))
    fill_store(start(tiny, weights, tmp_path / "there", batch_size=3), None, workers)
    assert bytes_of(tmp_path / "there") == bytes_of(tmp_path / "here")
    end = fill_store(start(tiny, weights, tmp_path / "there", batch_size=3), None, None)  # nobody is asked
    assert (end.done, end.resumed) == (7, 7)


# ------------------------------------------------------------------------------------------------- what can go wrong


@pytest.fixture
def moved(tiny, weights, tmp_path):
    """Return a prepared run and its track, a copy that tests spoil before the workers see it."""
    track = tmp_path / "dnase.bw"
    shutil.copy(tiny.tracks["dnase"], track)
    sources = {name: str(source) for name, source in {**tiny.sources, "dnase": track}.items()}
    return start(tiny, weights, tmp_path / "out", sources=sources), track


def test_a_worker_without_the_files_says_which(moved, workers):
    run, track = moved
    track.unlink()
    words = r"worker tls://127\.0\.0\.1:\d+ on \S+: .*dnase\.bw\): no such file: workers need the run"
    with pytest.raises(InputError, match=words):
        fill_store(run, None, workers)
    assert not run.store.path.exists()


def test_a_worker_with_other_files_says_what_differs(moved, workers, tiny):
    run, track = moved
    shutil.copy(tiny.tracks["h3k27ac"], track)
    with pytest.raises(InputError, match=r"files differ from those of the run .files: track dnase was .*, now "):
        fill_store(run, None, workers)
    assert not run.store.path.exists()


@contextmanager
def one_answer(answer):
    """Yield the address of a server that sends `answer` to whoever connects, and then keeps the line open."""
    server = socket.create_server(("127.0.0.1", 0))
    lines = []

    def serve():
        with suppress(OSError):  # the server's end
            while True:
                line, _ = server.accept()
                lines.append(line)
                with suppress(OSError):  # whoever called has hung up
                    line.sendall(answer)

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    try:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)  # wakes accept()
        serving.join(timeout=60)
        for line in [server, *lines]:
            line.close()
    assert not serving.is_alive()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9, bytes(64), b"\xff" * 64])
def test_what_is_no_scheduler_is_refused_in_time(monkeypatch, answer):
    monkeypatch.setattr(cluster_access, "CONNECT_S", 0.5)
    started = time.monotonic()
    with one_answer(answer) as address:
        words = rf"{address}: no Dask scheduler answers there within 0\.5 s .*: start one"
        with pytest.raises(ClusterError, match=words), parse_cluster(address).open():
            pass
    assert time.monotonic() - started < 60  # of a machine that does other things, too


def test_a_port_that_nobody_listens_on(monkeypatch):
    monkeypatch.setattr(cluster_access, "CONNECT_S", 0.3)
    with pytest.raises(ClusterError, match=r"tcp://127\.0\.0\.1:9: no Dask scheduler answers there within 0\.3 s"):
        check_scheduler("tcp://127.0.0.1:9")


STRANGER = """
import sys
import distributed
try:
    distributed.Client(sys.argv[1], security=distributed.Security.temporary(), timeout=2)
except OSError:
    print("refused")
"""


def test_a_stranger_cannot_use_the_workers_of_a_run(workers, monkeypatch):
    monkeypatch.setattr(cluster_access, "CONNECT_S", 2.0)
    address = workers.client.scheduler.address
    assert address.startswith("tls://127.0.0.1:")
    assert all(worker.startswith("tls://") for worker in workers.client.nthreads())
    plain = address.replace("tls", "tcp")
    with pytest.raises(ClusterError, match="no Dask scheduler answers there"):
        check_scheduler(plain)  # without TLS
    with pytest.raises(ClusterError, match="no Dask scheduler answers there"):
        check_scheduler(address)  # with TLS, without a key
    assert warm.run(["-c", STRANGER, address]).stdout == "refused\n"  # with a key of one's own
    assert workers.client.submit(os.getpid, pure=False).result(timeout=120)  # the run's own client goes on


def failing(error):
    def result(timeout):
        raise error

    return SimpleNamespace(result=result)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            distributed.scheduler.KilledWorker("key", SimpleNamespace(address="tcp://a:1"), 3),
            "rows 4 to 6 of the table ended 4 workers, one after the other: they probably need more memory",
        ),
        (distributed.client.FutureCancelledError("key", "lost"), "scheduler was lost .*run the same command again"),
        (ModuleNotFoundError("No module named 'kipoi_seq2exp'"), "cannot load this package .*install the same version"),
    ],
)
def test_lost_batches_are_one_sentence(error, words):
    assert module._rows(failing(TimeoutError()), "rows 4 to 6 of the table") is None
    assert module._rows(failing(distributed.TimeoutError()), "rows 4 to 6 of the table") is None
    with pytest.raises(ClusterError, match=words):
        module._rows(failing(error), "rows 4 to 6 of the table")


def test_workers_that_end_slowly_hide_nothing(monkeypatch):
    """What stopped the run is what the user hears, not that the workers took their time."""

    def close(timeout):
        raise TimeoutError(f"timed out after {timeout} s.")

    monkeypatch.setattr(distributed, "LocalCluster", lambda **settings: SimpleNamespace(close=close, security=None))
    monkeypatch.setattr(distributed, "Client", lambda *given, **settings: SimpleNamespace(close=close))
    with pytest.raises(KeyboardInterrupt, match="interrupted: 3 of 7"), parse_cluster("local:2").open():
        raise KeyboardInterrupt("interrupted: 3 of 7")


def test_where_to_predict(tmp_path, monkeypatch):
    assert parse_cluster("local:3") == Cluster(local=3)
    assert parse_cluster("tcp://node7:8786") == Cluster(address="tcp://node7:8786")
    for text in ("locl:2", "local:0", "local:", "local:²", f"local:1{'0' * 30}", "node7"):
        with pytest.raises(ConfigError, match=f"--cluster {text}: expected local:N"):
            parse_cluster(text)
    for text in (
        "http://node7:8786",
        "tcp://node7",
        "tcp://node7:0",
        "tcp://node7:99999",
        "tcp://a b:8786",
        "inproc://a",
    ):
        with pytest.raises(ConfigError, match=rf"--cluster {text}: expected the address of a Dask scheduler"):
            parse_cluster(text)
    with pytest.raises(InputError, match=r"absent\.yaml: no such file"):
        parse_cluster(str(tmp_path / "absent.yaml"))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"--cluster needs Dask .*pip install 'kipoi-seq2exp\[cluster\]'"):
        parse_cluster("local:2")


# -------------------------------------------------------------------------------------------------------------- Ctrl-C

INTERRUPTIBLE = """
import sys, time
from kipoi_seq2exp.prediction.store import PredictionStore
from kipoi_seq2exp.cli import main
write = PredictionStore.write
def slow_write(self, index, row):
    write(self, index, row)
    time.sleep(0.5)
PredictionStore.write = slow_write
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_keeps_complete_rows_and_ends_the_workers(tiny, weights, whole_run, tmp_path):
    folder = tmp_path / "r"
    words = command_line(tiny, weights, folder, "--save-beta", "--cluster", "local:1")
    (tmp_path / "script.py").write_text(INTERRUPTIBLE)
    child = warm.Process([tmp_path / "script.py", *words], start_new_session=True)
    deadline = time.monotonic() + 300
    while not genes_done(folder) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: the workers get it, too
    _, complaint = child.communicate(timeout=300)
    lines = complaint.decode().splitlines()
    assert child.returncode == INTERRUPTED, complaint.decode()
    assert lines[-1].startswith("seq2exp: interrupted: ")
    assert "Traceback" not in complaint.decode()
    while group_lives(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not group_lives(child.pid)
    end = fill_store(prepare(small_request(tiny, weights, save_beta=True), folder))
    assert 0 < end.resumed < 7
    assert bytes_of(folder) == whole_run


# --------------------------------------------------------------------------------------------------------------- SLURM

SBATCH = """#!{python}
import pathlib, subprocess, sys
if "--test-only" in sys.argv:
    sys.exit()
here = pathlib.Path(__file__).parent
job = here / f"job{{len(list(here.glob('job*.sh')))}}.sh"
job.write_text(pathlib.Path(sys.argv[1]).read_text())
log = job.with_suffix(".log").open("w")
started = subprocess.Popen(["sh", str(job)], stdout=log, stderr=log, start_new_session=True)
print("Submitted batch job", started.pid)
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put a stand-in for SLURM on PATH that runs jobs on this machine at once; return the folder of its jobs."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "sbatch").write_text(SBATCH.format(python=sys.executable))
    (folder / "scancel").write_text('#!/bin/sh\nfor job; do kill -KILL -- "-$job"; done\n')
    for name in ("sbatch", "scancel"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_lost_job_of_slurm_is_replaced(tiny, weights, whole_run, slurm, tmp_path, monkeypatch):
    import dask

    monkeypatch.setattr(module, "REPLACE_S", 0.5)
    (tmp_path / "slurm.yaml").write_text(f"cores: 1\nmemory: 2GB\ninterface: lo\nlocal_directory: {tmp_path}\n")
    ended = []

    def end_the_job(progress):
        if progress.done == 1 and not ended:
            time.sleep(0.5)  # the worker computes its next genes: these rows are lost with it
            (worker,) = opened.client.run(os.getpid).values()
            ended.append(os.getsid(worker))  # the job's number
            os.killpg(ended[0], signal.SIGKILL)

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}),
        parse_cluster(str(tmp_path / "slurm.yaml")).open() as opened,
    ):
        end = fill_store(start(tiny, weights, tmp_path / "r"), end_the_job, opened)
    assert (end.done, end.resumed) == (7, 0)
    assert ended
    assert bytes_of(tmp_path / "r") == whole_run
    assert len(list(slurm.glob("job*.sh"))) == 2


def test_a_network_interface_that_is_not_there(tmp_path):
    (tmp_path / "slurm.yaml").write_text("cores: 1\nmemory: 1GB\ninterface: lo0\n")
    with (
        pytest.raises(ConfigError, match=r"interface: this machine has no 'lo0' .did you mean 'lo'"),
        parse_cluster(str(tmp_path / "slurm.yaml")).open(),
    ):
        pass


def test_without_slurm_on_this_machine(tmp_path, monkeypatch):
    (tmp_path / "slurm.yaml").write_text("cores: 1\nmemory: 1GB\ninterface: lo\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ClusterError, match=r"sbatch cannot be run .No such file"),
        parse_cluster(str(tmp_path / "slurm.yaml")).open(),
    ):
        pass


def test_slurm_refuses_the_jobs(slurm, tmp_path, capfd):
    (tmp_path / "slurm.yaml").write_text("cores: 1\nmemory: 1GB\ninterface: lo\n")
    (slurm / "sbatch").write_text("#!/bin/sh\necho sbatch: error: invalid partition >&2\nexit 1\n")
    with (
        pytest.raises(
            ClusterError, match=r"SLURM refuses a job with these settings .sbatch: error: invalid partition.: change"
        ),
        parse_cluster(str(tmp_path / "slurm.yaml")).open(),
    ):
        pass
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_ctrl_c_while_workers_start_waits_and_never_reaches_them():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # dask_jobqueue puts its own in place
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    steps = []

    def start_workers():
        with module._ctrl_c_held():
            steps.append(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip())
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("after the signal")

    try:
        with pytest.raises(KeyboardInterrupt):
            start_workers()
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == [b"True", "after the signal"]
