"""Every hostile file, by the commands that read it: one sentence, status 1, nothing left; nothing in a file runs."""

from __future__ import annotations

import pytest
from hostile import COMMANDS, FAULTS, READS_RESULTS, outcome


def first_of_each_option():
    """One wrong file of each option, for the commands beside `predict`."""
    seen = {fault.option: fault for fault in reversed(FAULTS)}
    return [fault for option, fault in seen.items() if option not in ("checkpoint", "results")]


CASES = [
    *(("predict", fault) for fault in FAULTS if fault.option != "results"),
    *((command, fault) for command in list(COMMANDS)[1:] for fault in first_of_each_option()),
    *((command, fault) for command in READS_RESULTS for fault in FAULTS if fault.option == "results"),
]


@pytest.mark.parametrize(("command", "fault"), CASES, ids=[f"{command}-{fault}"[:100] for command, fault in CASES])
def test_a_hostile_file_is_one_sentence(command, fault, tiny, weights, tmp_path, tally):
    found = outcome(fault, COMMANDS.get(command, command), tiny, weights, tmp_path)
    ran = (tmp_path / "ran").exists()
    tally[fault.cause, "broken" if ran or found.wrong(fault) else "kept"] += 1
    assert found.wrong(fault) is None
    assert not ran
