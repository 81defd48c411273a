from __future__ import annotations

import pytest

from kipoi_seq2exp.nn.cpu import tiles


@pytest.fixture(params=["compiled", "tiles"])
def either_walk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a narrow network by its own walk, then tile by tile as a wide one."""
    if request.param == "tiles":
        monkeypatch.setattr(tiles.Packed, "of", lambda *_: None)
