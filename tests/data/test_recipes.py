"""Where tracks in each unit come from."""

from __future__ import annotations

import pytest

from kipoi_seq2exp.config import TrackKind, TrackSpec
from kipoi_seq2exp.data.cells import read_cells
from kipoi_seq2exp.data.tracks.recipes import RECIPES, recipe_of


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
