"""Where tracks in each unit come from."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from kipoi_seq2exp.config import TrackKind, TrackSpec
from kipoi_seq2exp.data.cells import read_cells
from kipoi_seq2exp.data.tracks.recipes import RECIPES, recipe_of
from kipoi_seq2exp.data.tracks.signals import open_signal


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.unit)
def test_each_unit_is_known_by_its_own_words(recipe):
    assert recipe_of(TrackSpec("x", unit=recipe.unit)) is recipe


def test_units_of_the_table_of_cell_types_have_a_recipe():
    for inputs in read_cells().values():
        for spec in inputs.tracks:
            assert (recipe_of(spec) is None) == (spec.kind is TrackKind.CONTACT), spec


def test_the_published_units_are_told_apart():
    h3k27ac, dnase, hic = read_cells()["K562"].tracks
    assert recipe_of(h3k27ac).encode == "signal p-value"  # its text names fold change too, as what it is not
    assert recipe_of(dnase).encode == "read-depth normalized signal"
    assert recipe_of(hic) is None
    assert recipe_of(TrackSpec("x", unit="furlongs")) is None


def test_the_commands_of_bedtools_make_what_we_read(tmp_path):
    """Reads of a small BAM, counted by hand."""
    if shutil.which("bedtools") is None:
        pytest.skip("bedtools is not installed (Debian: bedtools)")
    reads = [(100, 150), (120, 170), (190, 240), (900, 950)]
    (tmp_path / "reads.bed").write_text("".join(f"chr1\t{start}\t{end}\tr\t1\t+\n" for start, end in reads))
    (tmp_path / "sizes").write_text("chr1\t2000\n")
    (tmp_path / "peaks.bed").write_text("chr1\t100\t200\nchr1\t1000\t1500\n")
    commands = {recipe.unit: recipe.command for recipe in RECIPES}
    wanted = {
        "reads per kb, in peaks": [(100, 30), (199, 30), (200, 0), (1_200, 0)],
        "reads per base": [(110, 1), (130, 2)],
    }
    for unit, values in wanted.items():
        script = f"set -e; bedtools bedtobam -i reads.bed -g sizes > reads.bam; {commands[unit]}"
        subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, timeout=60)
        with open_signal(str(tmp_path / "sample.bedGraph"), TrackSpec("x", unit=unit)) as track:
            found = track.values("chr1", 0, 2_000)
        np.testing.assert_array_equal([found[place] for place, _ in values], [value for _, value in values])
