"""The picture of a locus: what is gathered for it, what is drawn, which formats it takes."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise, permutations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from small_runs import PROMOTER_BP, small_request, small_weights
from test_report import write_pairs

from kipoi_seq2exp.data.windows import Locus
from kipoi_seq2exp.effects.contributions import Contributions
from kipoi_seq2exp.elements.calls import CallSettings
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.prediction.run import fill_store, prepare
from kipoi_seq2exp.prediction.store import read_predictions
from kipoi_seq2exp.view.annotation import read_gene_models, read_known_elements
from kipoi_seq2exp.view.contribution_plots import ContributionPicture, draw_contributions
from kipoi_seq2exp.view.locus import Surroundings, gather, unit_of
from kipoi_seq2exp.view.margins import PANEL_NAME
from kipoi_seq2exp.view.plots import BINS, GENE_ROWS, draw_locus, plot_locus

CALLS = CallSettings(0.5, min_length_bp=20)
HERE = Locus("GENE02", "chr1", 7_000, 11_000, 9_000, "-")


@pytest.fixture(scope="module")
def predictions(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fill_store(prepare(small_request(tiny, small_weights(tiny, folder), save_beta=True), folder))
    with read_predictions(folder) as found:
        yield found


@pytest.fixture(scope="module")
def data(tiny, predictions):
    return gather(predictions, "GENE02", CALLS, Surroundings({}, gtf=tiny.gtf, known=tiny.peaks))


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [text.get_text() for text in figure.texts]


def test_gathered_data_are_those_of_the_window(tiny, predictions, data):
    with tiny.dataset() as windows:
        signals = windows[1].signals
        blacklist = windows[1].blacklist
    assert [track.spec.name for track in data.tracks] == ["h3k27ac", "dnase", "hic"]
    for column, track in enumerate(data.tracks[:2]):
        np.testing.assert_array_equal(track.values, signals[:, column])
    np.testing.assert_allclose(np.log10(data.tracks[2].values + 1), signals[:, 2], rtol=1e-5)
    np.testing.assert_array_equal(data.blacklist, blacklist)  # as recorded with the predictions
    np.testing.assert_array_equal(data.mask, predictions.mask(1))
    assert data.predicted == predictions.genes["expression"][1]
    assert data.observed == predictions.genes["observed"][1]
    assert data.promoter == slice(2_000 - PROMOTER_BP // 2, 2_000 + PROMOTER_BP // 2)
    assert "GENE02.3" in [model.gene_id for model in data.models]


def test_given_tracks_replace_the_recorded_ones(tiny, predictions):
    around = Surroundings({"dnase": str(tiny.tracks["h3k27ac"])})
    tracks = gather(predictions, "GENE02", CALLS, around).tracks
    assert [track.spec.name for track in tracks] == ["dnase"]
    with pytest.raises(InputError, match=r"unknown track 'dnas'.*'dnase'"):
        gather(predictions, "GENE02", CALLS, Surroundings({"dnas": "x.bw"}))


def test_an_unknown_gene_is_named(predictions):
    with pytest.raises(InputError, match=r"no gene 'GENE2' \(did you mean 'GENE02'"):
        gather(predictions, "GENE2", CALLS, Surroundings({}))


def test_the_figure_shows_everything(data):
    figure = draw_locus(data)
    shown = " ".join(texts(figure))
    for word in ("gene02", "h3k27ac", "dnase", "hic", "mask", "elements", "known", "provisional", "chr1:7,001-11,000"):
        assert word in shown
    assert f"{data.predicted:.2f}" in shown
    assert f"{data.observed:.2f}" in shown
    assert f"{len(data.elements)} called" in shown
    assert len(figure.axes) == 1 + 1 + 3 + 2 + 1  # genes, known, tracks, mask and elements, expression
    smallest = min(text.get_fontsize() for axes in figure.axes for text in axes.texts if text.get_text())
    assert smallest >= 11  # readable on a slide of this size
    low, high = figure.axes[0].get_xlim()
    assert (low, high) == (7_000, 11_000)


def boxes(figure):
    """Return each text that is drawn with the rectangle that it takes, in pixels."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    found = [*figure.texts]
    for axes in figure.axes:
        labels = [tick.label1 for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks()]  # those in view
        found += [*axes.texts, *labels, axes.xaxis.label, axes.title, axes._right_title]
    return [(text, text.get_window_extent(renderer)) for text in found if text.get_text() and text.get_visible()]


@pytest.mark.parametrize(
    ("more", "perturbed"), [("_of_a_reference_with_a_name_that_nobody_can_read", False), ("", True)]
)
def test_no_text_is_cut_or_lies_on_another_panels_name(data, more, perturbed):
    tracks = tuple(
        dataclasses.replace(track, spec=dataclasses.replace(track.spec, name=track.spec.name + more, unit="unit " * 20))
        for track in data.tracks
    )
    sites = pd.DataFrame({"start": [8_000, 9_000], "end": [8_400, 9_400], "delta_expression": [-0.0549, 7e-5]})
    effects = {"effects": sites, "unit": "log10(RPKM + 1)"} if perturbed else {}
    figure = draw_locus(dataclasses.replace(data, tracks=tracks, **effects))
    found = boxes(figure)
    names = [(text, box) for text, box in found if text.get_gid() == PANEL_NAME]
    assert len(names) > 10
    for text, box in found:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width, text
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height, text
    ticks = [box for axes in figure.axes[:-1] for text, box in found if text in axes.get_yticklabels()]
    for text, box in names:
        assert not any(box.overlaps(tick) for tick in ticks), text
    for first, above in pairwise(sorted((box for _, box in names), key=lambda box: box.y0)):
        assert first.y1 <= above.y0 + 6  # descenders may touch


@pytest.mark.parametrize("dna", [0.0, 1e-3])
def test_no_text_of_the_picture_of_contributions_is_cut(tiny, dna):
    with tiny.dataset() as windows:
        window, inputs = windows[0], windows.inputs
    tracks = tuple(dataclasses.replace(track, name=f"{track.name}_of_a_reference") for track in inputs.tracks)
    features = tuple(dataclasses.replace(feature, from_tracks=()) for feature in inputs.features)
    letters = np.full((4_000, 4), dna, np.float32)
    values = np.linspace(-1e-4, 1e-4, 4_000)[:, None] * np.ones(len(tracks))
    found = Contributions(letters, letters[:, 0], values, np.full(len(inputs.features), 0.25), 0.8, -0.3)
    inputs = dataclasses.replace(inputs, tracks=tracks, features=features)
    figure = draw_contributions(ContributionPicture(window, found, inputs, None, "K562; method integrated", "abc"))
    shown = " ".join(texts(figure))
    for word in ("abc (GENE01)", "dnase_of_a_reference", "not explained", "+0.250", "per 5 bp"):
        assert word in shown
    assert ("per base" in shown) == (dna > 0)
    assert ("nothing from: DNA" in shown) == (dna == 0)
    for text, box in boxes(figure):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width, text
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height, text


def test_numbers_of_one_panel_do_not_run_into_the_next(data):
    figure = draw_locus(data)
    ticks = {axes: [box for text, box in boxes(figure) if text in axes.get_yticklabels()] for axes in figure.axes[:-1]}
    for axes, others in permutations(ticks, 2):
        assert not any(box.overlaps(other) for box in ticks[axes] for other in ticks[others])


def test_the_symbol_of_the_table_names_the_gene_without_a_gtf(data):
    bare = dataclasses.replace(data, models=(), symbol="abc")
    assert "abc (GENE02)" in texts(draw_locus(bare))
    assert "GENE02" in texts(draw_locus(dataclasses.replace(bare, symbol="")))


def test_called_elements_are_drawn_where_they_are(data):
    figure = draw_locus(data)
    axes = next(axes for axes in figure.axes if any("elements" in text.get_text() for text in axes.texts))
    drawn = axes.collections[0].get_paths()
    assert len(drawn) == len(data.elements) > 0
    assert [path.vertices[:, 0].min() for path in drawn] == data.elements["start"].tolist()


def test_the_mask_line_is_the_mean_of_each_bin(data):
    figure = draw_locus(data)
    axes = next(axes for axes in figure.axes if any("mask" in text.get_text() for text in axes.texts))
    line = next(line for line in axes.lines if line.get_label() == "mean")
    assert len(line.get_ydata()) == BINS
    assert np.average(line.get_ydata()) == pytest.approx(data.mask.mean(), abs=0.01)
    assert any("credible" in text.get_text() for text in axes.get_legend().get_texts())


def test_artefacts_in_the_blacklist_do_not_set_the_scale(data):
    spiked = data.tracks[1].values.copy()
    spiked[np.flatnonzero(data.blacklist)[0]] = 1_000
    track = dataclasses.replace(data.tracks[1], values=spiked)
    figure = draw_locus(dataclasses.replace(data, tracks=(track,)))
    axes = next(axes for axes in figure.axes if any("dnase" in text.get_text() for text in axes.texts))
    assert axes.get_ylim()[1] < 20


def test_the_least_there_can_be_is_drawn(data):
    bare = dataclasses.replace(
        data, tracks=(), mask=None, concentrations=None, threshold=None, models=(), known=None, observed=None
    )
    figure = draw_locus(dataclasses.replace(bare, elements=data.elements.iloc[:0], blacklist=None, predicted=-0.4))
    assert "-0.40" in texts(figure)
    assert "GENE02" in texts(figure)


def test_genes_that_find_no_room_are_counted(data):
    model = data.models[0]
    crowd = tuple(dataclasses.replace(model, gene_id=f"G{n}", name=f"G{n}") for n in range(GENE_ROWS + 2))
    assert "2 not drawn" in texts(draw_locus(dataclasses.replace(data, models=crowd)))


def test_the_unit_is_the_short_form_of_the_label():
    labels = {"log10(CAGE + 1), CAGE reads": "log10(CAGE + 1)", "log10(x + 1) of invented genes": "log10(x + 1)"}
    for label, unit in labels.items():
        assert unit_of({"inputs": {"label": label}}) == unit
    assert unit_of({}) == "log10(reads + 1)"


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_formats(data, tmp_path, ending, start):
    path = tmp_path / f"a.{ending}"
    plot_locus(data, path)
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def arcs(figure):
    from matplotlib.patches import PathPatch

    axes = next(a for a in figure.axes if "CRISPRi" in [text.get_text() for text in a.texts])
    return axes, [patch for patch in axes.patches if isinstance(patch, PathPatch)]


def test_pairs_are_arcs_from_element_to_tss(tiny, predictions, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.tsv")
    data = gather(predictions, "GENE02", CALLS, Surroundings({}, crispri=pairs))
    assert data.pairs["start"].tolist() == [7_500, 10_100]  # within the window, of this gene
    axes, found = arcs(draw_locus(data))
    ends = {(arc.get_path().vertices[0][0], arc.get_path().vertices[-1][0]): arc.get_edgecolor() for arc in found}
    assert set(ends) == {(7_600, 9_000), (10_250, 9_000)}
    assert ends[7_600, 9_000] != ends[10_250, 9_000]
    assert [text.get_text() for text in axes.get_legend().texts] == ["no effect seen", "regulates the gene"]
    nothing = gather(predictions, "GENE01", CALLS, Surroundings({}, crispri=pairs))
    figure = draw_locus(nothing)
    assert arcs(figure)[1] == []
    assert "no pair of this gene was tested" in texts(figure)


def test_pairs_and_gene_models_of_another_naming_or_build_are_one_sentence(tiny, predictions, tmp_path):
    for change, message in (
        (("1", 7_500, 7_700, 9_000), "pairs.tsv names a chromosome '1' that is 'chr1' in the predictions"),
        (("chr1", 9_007_500, 9_007_700, 9_009_000), "GENE02 starts at chr1:9,009,001 here but at chr1:9,001 there"),
    ):
        pairs = write_pairs(tmp_path / "pairs.tsv", [(*change, "GENE02", "TRUE")])
        with pytest.raises(InputError, match=re.escape(message)):
            gather(predictions, "GENE02", CALLS, Surroundings({}, crispri=pairs))
    other = tmp_path / "other.gtf"
    other.write_text(tiny.gtf.read_text().replace("chr", ""))
    with pytest.raises(InputError, match=r"other\.gtf has no chromosome 'chr1' \(it has 1, 2\)"):
        read_gene_models(other, HERE)


def test_other_formats_are_refused(data, tmp_path):
    with pytest.raises(ConfigError, match=r"a\.gif: a picture ends in \.png, \.svg or \.pdf"):
        plot_locus(data, tmp_path / "a.gif")


# --------------------------------------------------------------------------------------------------------- annotation


def test_gene_models_are_those_that_overlap(tiny):
    models = read_gene_models(tiny.gtf, HERE)
    assert [model.name for model in models] == ["gene02"]
    assert (models[0].start, models[0].end, models[0].strand) == (8_501, 9_001, "-")
    three = read_gene_models(tiny.gtf, HERE, Locus("GENE05", "chr2", 6_000, 10_000, 8_000, "+"), HERE)
    assert [(model.chrom, model.name) for model in three] == [("chr1", "gene02"), ("chr2", "gene05")]


def test_a_gene_that_reaches_into_a_window_is_read_whole(tmp_path):
    path = tmp_path / "a.gtf"
    lines = [f"chr1\tx\t{kind}\t{s}\t{e}\t.\t+\t.\tgene_id \"G\"" for kind, s, e in (
        ("gene", 10_501, 15_000), ("exon", 10_501, 10_600), ("exon", 10_551, 10_700), ("exon", 14_001, 15_000),
    )]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    (model,) = read_gene_models(path, HERE)
    assert model.exons == ((10_500, 10_700), (14_000, 15_000))


def test_exons_are_joined_over_transcripts(tmp_path):
    path = tmp_path / "a.gtf"
    attributes = 'gene_id "G.1"; gene_name "abc"; gene_type "protein_coding"'
    lines = [f"chr1\tx\t{kind}\t{s}\t{e}\t.\t+\t.\t{attributes}" for kind, s, e in (
        ("gene", 8001, 9000), ("exon", 8001, 8100), ("exon", 8001, 8100), ("exon", 8901, 9000), ("CDS", 8001, 8050),
    )]  # fmt: skip
    path.write_text("#!header\n" + "\n".join(lines) + "\n")
    (model,) = read_gene_models(path, HERE)
    assert model.exons == ((8_000, 8_100), (8_900, 9_000))
    assert (model.gene_id, model.kind) == ("G.1", "protein_coding")


def test_known_elements_have_kinds_where_the_bed_does(tmp_path):
    path = tmp_path / "k.bed"
    path.write_text("#c\nchr1\t8000\t8100\ta\t1\t.\tenhancer\nchr1\t0\t10\nchr1\t9000\t9100\nchr2\t8000\t8100\n")
    known = read_known_elements(path, HERE)
    assert known.to_dict("list") == {
        "start": [8_000, 9_000],
        "end": [8_100, 9_100],
        "name": ["a", ""],
        "kind": ["enhancer", "known"],
    }


def test_damaged_annotation_is_named_by_line(tmp_path):
    path = tmp_path / "bad"
    path.write_text("chr1\t1\n")
    with pytest.raises(InputError, match="bad, line 1: not a GTF record"):
        read_gene_models(path, HERE)
    with pytest.raises(InputError, match="bad, line 1: expected chrom, start, end"):
        read_known_elements(path, HERE)


@pytest.mark.parametrize("name", ["$\\frac{$", "a$b$c", "$"])
def test_a_dollar_in_an_id_is_a_letter(data, tmp_path, name):
    where = dataclasses.replace(data.locus, gene_id=name)
    tracks = tuple(
        dataclasses.replace(track, spec=dataclasses.replace(track.spec, name=f"{name}{number}"))
        for number, track in enumerate(data.tracks)
    )
    changed = dataclasses.replace(data, locus=where, tracks=tracks)
    plot_locus(changed, tmp_path / "a.svg")
    assert name in (tmp_path / "a.svg").read_text()
    assert name in texts(draw_locus(changed))
