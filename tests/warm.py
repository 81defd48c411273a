"""Python processes whose heavy imports are done: `run` and `Process`, like those of `subprocess`, seconds faster each.

A server imports torch, numba and the rest once, runs the kernels once, and forks for each command. The command is
`__main__` of its own process with its own arguments, folder, environment, streams and signals, and its exit status is
the interpreter's. What Python reads before it starts (PYTHONPATH, PYTHONWARNINGS, OMP_NUM_THREADS) is the server's;
Kipoi, which reads HOME when it is imported, is left to the command.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import multiprocessing.process
import os
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIMIT = 200_000  # bytes of a request: arguments and environment


# ---------------------------------------------------------------------------------------------------------- the tests


class Process:
    """A command that runs: `-c CODE` or a script, and its arguments, without the interpreter's name.

    `imports` are modules that the server is to import, too, from now on.
    """

    def __init__(
        self,
        command: Sequence[object],
        *,
        cwd: object = ".",
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
        imports: Sequence[str] = (),
    ) -> None:
        request = {
            "imports": list(imports),
            "command": [str(word) for word in command],
            "cwd": str(Path(str(cwd)).resolve()),
            "env": dict(os.environ if env is None else env),
            "session": start_new_session,
        }
        self._said = [os.memfd_create(name) for name in ("stdout", "stderr")]
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, Path(os.devnull).open() as nothing:
            streams = [theirs.fileno(), nothing.fileno(), *self._said]
            socket.send_fds(_door(), [json.dumps(request).encode()], streams)
        self.returncode: int | None = None
        self.pid = int(self._line.recv(LIMIT))

    def poll(self, timeout: float = 0.001) -> int | None:
        """Return the exit status, negative for a signal; None while it runs after `timeout` seconds."""
        if self.returncode is None:
            self._line.settimeout(timeout)
            try:
                self.returncode = int(self._line.recv(LIMIT))
            except TimeoutError:
                return None
        return self.returncode

    def __del__(self) -> None:
        self._line.close()
        for stream in self._said:
            os.close(stream)

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def communicate(self, timeout: float) -> tuple[bytes, bytes]:
        """Wait for the end; return what it said on stdout and stderr. One that takes longer is killed."""
        late = self.poll(timeout) is None
        if late:
            os.kill(self.pid, signal.SIGKILL)
            self.poll(60)
        said = [os.pread(stream, os.fstat(stream).st_size, 0) for stream in self._said]
        if late:
            raise subprocess.TimeoutExpired("the command", timeout, *said)
        return said[0], said[1]


def run(command: Sequence[object], *, timeout: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `options` are those of `Process`."""
    process = Process(command, **options)
    out, err = (said.decode() for said in process.communicate(timeout))
    assert process.returncode is not None
    return subprocess.CompletedProcess(list(map(str, command)), process.returncode, out, err)


@functools.cache
def _door() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with theirs:
        server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def close() -> None:
        ours.close()
        server.wait(timeout=60)

    atexit.register(close)
    return ours


# ---------------------------------------------------------------------------------------------------------- the server


def import_much() -> None:
    """Import what the commands need, and have the kernels compiled or read."""
    import h5py  # noqa: F401
    import numba  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pyBigWig  # noqa: F401
    import pyfaidx  # noqa: F401
    import torch
    import zarr  # noqa: F401

    import kipoi_seq2exp.prediction.run
    import kipoi_seq2exp.zoo.array_model  # noqa: F401
    from kipoi_seq2exp.config import NetworkConfig
    from kipoi_seq2exp.nn.mamba import MambaStack

    with torch.no_grad():
        MambaStack(NetworkConfig(d_model=16), 1).eval()(torch.zeros(1, 150, 16))
    gc.collect()
    gc.freeze()


def next_command(door: socket.socket) -> dict[str, Any]:
    """Wait for commands and fork; return one in the process that is to run it."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(door, LIMIT, 4)
        if not message:  # the tests have ended
            raise SystemExit
        request: dict[str, Any] = json.loads(message)
        for name in request["imports"]:
            importlib.import_module(name)
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
        while _reaped():
            pass
    line = socket.socket(fileno=descriptors[0])
    process = os.fork()
    if process:  # the one that waits
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        line.send(str(process).encode())
        line.send(str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])).encode())
        os._exit(0)
    line.close()
    for number, descriptor in enumerate(descriptors[1:]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return request


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def become(request: dict[str, Any]) -> tuple[Any, types.ModuleType]:
    """Make this process that of the command; return its code and the module to run it in."""
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    multiprocessing.process.ORIGINAL_DIR = request["cwd"]
    main = types.ModuleType("__main__")
    first, *words = request["command"]
    if first == "-c":
        text, name, sys.argv, sys.path[0] = words[0], "<string>", ["-c", *words[1:]], ""
    else:
        text, name, sys.argv, sys.path[0] = Path(first).read_text(), first, request["command"], str(Path(first).parent)
        main.__file__ = first
    sys.modules["warm"], sys.modules["__main__"] = sys.modules["__main__"], main
    return compile(text, name, "exec"), main


if __name__ == "__main__":
    import_much()
    code, main = become(next_command(socket.socket(fileno=os.dup(0))))
    exec(code, main.__dict__)
