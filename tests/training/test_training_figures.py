"""The pictures of a run: every panel has a curve and its axes say what they are."""

from __future__ import annotations

import pytest

from kipoi_seq2exp.training import figures

ROW = {"step": 10, "train_prediction": 0.5, "train_kl": 0.1, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("more", "labels"),
    [
        ({"validation_mse": 0.4, "validation_pearson": 0.3}, [label for _, label in figures.PANELS]),
        ({}, [figures.PANELS[place][1] for place in (0, 1, 3)]),  # a run that validates nothing
        (
            {"validation_mse": float("nan"), "validation_pearson": float("nan")},
            [figures.PANELS[i][1] for i in (0, 1, 3)],
        ),
    ],
)
def test_curves_have_no_empty_panel(tmp_path, monkeypatch, more, labels):
    drawn = []
    save = figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, path: (drawn.append(figure), save(figure, path)))
    figures.draw_curves([ROW | more, ROW | more | {"step": 20}], tmp_path / "curves.png")
    assert [axis.get_ylabel() for axis in drawn[0].axes] == labels
    assert all(axis.lines and axis.get_xlabel() == "optimiser step" for axis in drawn[0].axes)
    assert (tmp_path / "curves.png").stat().st_size > 0
