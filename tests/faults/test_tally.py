"""The counts of a part of the kit replace its own rows of the page, and the sum follows."""

from __future__ import annotations

from collections import Counter

from tally import BEGIN, END, write_table


def test_a_part_replaces_its_own_rows(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}{END}after\n")
    write_table(Counter({("fuzz", "kept"): 1_200, ("kills", "kept"): 11, ("kills", "broken"): 1}), page)
    write_table(Counter({("kills", "kept"): 12}), page)
    table = "| fuzz | 1,200 | 1,200 | 0 |\n| kills | 12 | 12 | 0 |\n| all | 1,212 | 1,212 | 0 |\n"
    start = "| cause | cases | as promised | not |\n|---|---|---|---|\n"
    assert page.read_text() == f"before\n{BEGIN}\n{start}{table}\n{END}after\n"
