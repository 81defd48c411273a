"""Counts of what was tried, by cause and outcome, and the table of them in the documentation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

BEGIN, END = "<!-- counts of make faults -->\n", "<!-- end of counts -->\n"


def write_table(counts: Counter[tuple[str, str]], page: Path) -> None:
    """Write the counts between the two marks of a page."""
    lines = ["| cause | cases | as promised | not |\n", "|---|---|---|---|\n"]
    for cause in dict.fromkeys(cause for cause, _ in counts):
        good, bad = counts[cause, "kept"], counts[cause, "broken"]
        lines.append(f"| {cause} | {good + bad:,} | {good:,} | {bad:,} |\n")
    good, bad = (sum(number for (_, end), number in counts.items() if end == kind) for kind in ("kept", "broken"))
    lines.append(f"| all | {good + bad:,} | {good:,} | {bad:,} |\n")
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(before + BEGIN + "\n" + "".join(lines) + "\n" + END + rest.partition(END)[2], encoding="utf-8")
