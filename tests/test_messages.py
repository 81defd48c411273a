"""What people are told: whole words, and a folder is called one."""

from __future__ import annotations

import pytest

from kipoi_seq2exp.commands.models import read_json
from kipoi_seq2exp.config import TrackKind, TrackSpec
from kipoi_seq2exp.data.tracks.contact_files import HicContacts
from kipoi_seq2exp.errors import Seq2ExpError, brief
from kipoi_seq2exp.nn.pickled import read_pickled
from kipoi_seq2exp.prediction.store import read_predictions


def test_what_another_package_says_is_cut_between_words():
    long = ConnectionError(
        "HTTPSConnectionPool(host='www.encodeproject.org', port=443):\n  Max retries " + "exceeded " * 40
    )
    text = brief(long)
    assert text.startswith("HTTPSConnectionPool(host='www.encodeproject.org', port=443): Max retries exceeded")
    assert text.endswith("exceeded ...")
    assert len(text) <= 200
    assert brief(ValueError("short.")) == "short"
    assert brief(ValueError()) == "ValueError"
    assert brief("x" * 300) == "x" * 196 + " ..."


@pytest.mark.parametrize(
    "read",
    [
        read_json,
        read_pickled,
        read_predictions,
        lambda path: HicContacts(str(path), TrackSpec("hic", TrackKind.CONTACT)),
    ],
)
def test_a_folder_is_not_called_missing(tmp_path, read):
    folder = tmp_path / "x.h5"
    folder.mkdir()
    with pytest.raises(Seq2ExpError, match="it is a folder"):
        read(folder)
