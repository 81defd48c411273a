"""The store of units: one process at a time writes to its folder, as with predictions."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest

from kipoi_seq2exp.errors import OutputError
from kipoi_seq2exp.prediction.store_files import LOCK, lock_folder, unlock_folder
from kipoi_seq2exp.prediction.units import UnitStore

NAME = "ALTER TABLE about RENAME COLUMN request TO reques"
HOLDS = """
import fcntl, sys
with open(sys.argv[1], "w") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_another_process_keeps_its_folder(tmp_path):
    path = tmp_path / "units.sqlite"
    UnitStore.open(path, {"weights": "a"}).close()
    before = path.read_bytes()
    command = [sys.executable, "-c", HOLDS, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="another run writes its results there: wait until it ends"):
                UnitStore.open(path, {"weights": "a"}, overwrite=overwrite)
    assert path.read_bytes() == before
    UnitStore.open(path, {"weights": "a"}, overwrite=True).close()


@pytest.mark.parametrize(
    "damage",
    ["UPDATE about SET request = '{'", "UPDATE done SET value = '{'", "DROP TABLE done", "DELETE FROM about", NAME],
)
def test_a_damaged_store_is_one_sentence(tmp_path, damage):
    path = tmp_path / "units.sqlite"
    store = UnitStore.open(path, {"weights": "a"})
    store.write("unit", 1)
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute(damage)
    connection.close()
    with pytest.raises(OutputError, match=r"units\.sqlite(: cannot be used| is damaged) .*\(.*\): (mov|start)"):  # noqa: PT012
        store = UnitStore.open(path, {"weights": "a"})
        try:
            assert "unit" in store
            assert store["unit"]
        finally:
            store.close()


def test_a_store_unlocks_what_it_locked(tmp_path):
    path = tmp_path / "units.sqlite"
    store = UnitStore.open(path, {"weights": "a"})
    assert (tmp_path / LOCK).exists()
    store.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["units.sqlite"]
    with pytest.raises(OutputError, match="holds results of other inputs or settings"):
        UnitStore.open(path, {"weights": "b"})
    assert not (tmp_path / LOCK).exists()
    lock_folder(tmp_path)  # as predictions in the same folder do, until everything is written
    UnitStore.open(path, {"weights": "a"}).close()
    assert (tmp_path / LOCK).exists()
    unlock_folder(tmp_path)
