"""Who may use a cluster: keys made for one run, and a check of a scheduler's address before anything waits for it.

Contract: whoever reaches a scheduler without TLS can run code as its user. So the clusters that we start (`local:N`,
SLURM) speak TLS with keys of their own, which live as long as the run; a scheduler that others started is joined as it
is, after a check within `CONNECT_S` that it is one.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kipoi_seq2exp.errors import ClusterError, ConfigError, brief
from kipoi_seq2exp.files import make_folder

CONNECT_S = 10.0  # how long a scheduler may take to answer
PLAIN, SECURE = "tcp", "tls"
_ADDRESS = re.compile(r"(\w+)://(\[[0-9a-fA-F:.]+\]|[\w.-]+):([0-9]{1,5})")
_REFUSED = "start one with `dask scheduler`, or check the address"


def check_address(text: str) -> str:
    """Return the address of a scheduler if it can be one.

    Raises
    ------
    ConfigError
        If it has another scheme, no host or no port.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or found[1] not in (PLAIN, SECURE) or not 0 < int(found[3]) < 1 << 16:
        raise ConfigError(f"--cluster {text}: expected the address of a Dask scheduler, tcp://HOST:PORT (or tls://).")
    return text


def check_scheduler(address: str) -> None:
    """Check that a scheduler answers at an address, and wait for it at most `CONNECT_S`.

    Raises
    ------
    ClusterError
        If nothing answers, or what answers is not a Dask scheduler.
    """
    try:
        kind = asyncio.run(asyncio.wait_for(_kind(address), CONNECT_S))
    except Exception as error:  # from sockets, TLS, msgpack or Dask: whatever an unknown answer leads to
        reason = brief(error, 300) if str(error).strip() else "no answer"
        raise ClusterError(
            f"--cluster {address}: no Dask scheduler answers there within {CONNECT_S:g} s ({reason}): {_REFUSED}."
        ) from None
    if kind != "Scheduler":
        raise ClusterError(f"--cluster {address}: a Dask {str(kind).lower()} answers, not a scheduler: {_REFUSED}.")


async def _kind(address: str) -> Any:
    import distributed

    security = distributed.Security().get_connection_args("client")  # of the user's own settings of Dask
    comm = await distributed.core.connect(address, timeout=CONNECT_S, **security)
    try:
        await comm.write({"op": "identity", "reply": True})
        answer = await comm.read()
        return answer.get("type") if isinstance(answer, dict) else type(answer).__name__
    finally:
        with suppress(Exception):
            comm.abort()


def keys_of_a_run(folder: Path | None = None) -> Any:
    """Return keys and certificates for TLS, made now: a `distributed.Security`.

    Parameters
    ----------
    folder : Path, optional
        Where to write them for jobs to read, accessible to this user alone; by default they stay in memory.

    Raises
    ------
    ConfigError
        If cryptography is not installed.
    """
    import distributed

    try:
        made = distributed.Security.temporary()
    except ImportError:
        raise ConfigError(
            "--cluster needs cryptography, which makes the keys of a run: pip install 'kipoi-seq2exp[cluster]'."
        ) from None
    if folder is None:
        return made
    files = {}
    for kind, text in made.get_tls_config_for_role("worker").items():
        if kind in ("ca_file", "cert", "key"):
            files[kind] = folder / f"{kind}.pem"
            files[kind].touch(mode=0o600, exist_ok=False)
            files[kind].write_text(text, encoding="ascii")
    roles = {
        f"tls_{role}_{kind}": str(files[kind]) for role in ("client", "scheduler", "worker") for kind in ("cert", "key")
    }
    return distributed.Security(tls_ca_file=str(files["ca_file"]), require_encryption=True, **roles)


@contextmanager
def keys_folder(folder: str | None) -> Iterator[Path]:
    """Make a folder that this user alone may enter, for the keys that jobs read; it is removed after the block.

    Parameters
    ----------
    folder : str or None
        Where to make it: a place that the jobs can read; by default the user's cache (`XDG_CACHE_HOME`).

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "kipoi_seq2exp"
    place = Path(folder).expanduser() if folder else cache
    make_folder(place)
    with tempfile.TemporaryDirectory(prefix="keys.", dir=place) as made:
        yield Path(made)
