"""Lazy files: opened at first use, once per process, never carried across a fork or a pickle."""

from __future__ import annotations

import os
import pickle

import pytest

from kipoi_seq2exp.data.handles import LazyFile


class Handle:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Counted(LazyFile[Handle]):
    opened = 0

    def _open(self) -> Handle:
        Counted.opened += 1
        return Handle()


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(Counted, "opened", 0)
    return Counted()


def test_opens_at_first_use_and_again_after_close(counted):
    assert Counted.opened == 0
    first = counted.handle
    assert counted.handle is first
    assert Counted.opened == 1
    with counted:
        pass
    assert first.closed
    assert counted.handle is not first


def test_pickle_drops_the_handle(counted):
    first = counted.handle
    copy = pickle.loads(pickle.dumps(counted))
    assert not first.closed
    assert copy.handle is not first
    assert Counted.opened == 2


def test_another_process_opens_its_own_and_leaves_the_parents_open(counted, monkeypatch):
    inherited = counted.handle
    monkeypatch.setattr(os, "getpid", lambda: -7)
    assert counted.handle is not inherited
    counted.close()
    assert Counted.opened == 2
    assert not inherited.closed


def test_another_process_does_not_close_the_parents(counted, monkeypatch):
    inherited = counted.handle
    monkeypatch.setattr(os, "getpid", lambda: -7)
    counted.close()
    assert not inherited.closed
