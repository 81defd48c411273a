"""Counts of what was tried, by cause and outcome, and the table of them in the documentation.

A run of a part of the kit replaces the rows of its causes; those of the others stay.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

BEGIN, END = "<!-- counts of make faults -->\n", "<!-- end of counts -->\n"
ROW = re.compile(r"\| (.+) \| [0-9,]+ \| ([0-9,]+) \| ([0-9,]+) \|")


def write_table(counts: Counter[tuple[str, str]], page: Path) -> None:
    """Write the counts between the two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = {cause: (_number(good), _number(bad)) for cause, good, bad in ROW.findall(table) if cause != "all"}
    rows |= {cause: (counts[cause, "kept"], counts[cause, "broken"]) for cause, _ in counts}
    rows["all"] = (sum(good for good, _ in rows.values()), sum(bad for _, bad in rows.values()))
    lines = ["| cause | cases | as promised | not |\n", "|---|---|---|---|\n"]
    lines += [f"| {cause} | {good + bad:,} | {good:,} | {bad:,} |\n" for cause, (good, bad) in rows.items()]
    page.write_text(before + BEGIN + "\n" + "".join(lines) + "\n" + END + after, encoding="utf-8")


def _number(text: str) -> int:
    return int(text.replace(",", ""))
