"""The page of a gene set in a real browser, opened from disk with the network cut off."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from chromium import complaints, fetched, opened, until
from small_runs import small_request, small_weights
from test_report import data_of, write_pairs

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.prediction.run import fill_store, prepare
from kipoi_seq2exp.prediction.store import read_predictions

PREDICTED = (2.5, 10.0, -1.0, 9.0, 100.0, -20.0, 0.5)  # sorted as texts they stand otherwise
OBSERVED = (3.0, 12.0, 0.0, None, 90.0, -15.0, 0.25)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


def make_page(tiny, folder, *words, weights=None, **request):
    fill_store(prepare(small_request(tiny, weights or small_weights(tiny, folder), **request), folder / "results"))
    assert main(["report", str(folder / "results"), "-o", str(folder / "page"), *words]) == 0
    return folder / "page" / "report.html"


@pytest.fixture(scope="module")
def page(tiny, tmp_path_factory):
    """A page of seven genes whose predicted and observed expression are known."""
    folder = tmp_path_factory.mktemp("page")
    pairs = write_pairs(folder / "pairs.tsv")
    path = make_page(tiny, folder, "--threshold", "0.6", "--gtf", str(tiny.gtf), "--crispri", str(pairs))
    text = path.read_text()
    for gene, predicted, observed in zip(data_of(text)["genes"], PREDICTED, OBSERVED, strict=True):
        one = re.compile(rf'("gene_id":"{gene["gene_id"]}".*?"expression":)[^,]+(.*?"observed":)[^,]+')
        text = one.sub(rf"\g<1>{predicted}\g<2>{'null' if observed is None else observed}", text)
    path.write_text(text)
    return path


@pytest.fixture
def shown(driver, page):
    """The page, opened and its first locus drawn; afterwards nothing was fetched and the console is empty."""
    yield from opened_page(driver, page)


def opened_page(driver, page):
    driver.get(page.as_uri())
    until(driver, lambda d: text(d, "range"))
    yield driver
    assert complaints(driver) == []
    assert fetched(driver) == []
    assert text(driver, "failure") == ""


def text(driver, name):
    return driver.find_element("id", name).text


def column(driver, label):
    """The texts of a column of the table."""
    at = next(n for n, cell in enumerate(heads(driver)) if cell.text.startswith(label)) + 1
    return [cell.text for cell in driver.find_elements("css selector", f"#table td:nth-child({at})")]


def heads(driver):
    return driver.find_elements("css selector", "#table th")


def sort_by(driver, label):
    next(cell for cell in heads(driver) if cell.text.startswith(label)).click()


def view(driver):
    """First and last base on show (from 1, closed), as the page says; igv.js says the same."""
    said = text(driver, "range")
    chrom, *ends = re.split("[:-]", driver.execute_script("return report.browser.currentLoci()"))
    assert said == f"{chrom}:" + "-".join(f"{round(float(end)):,}" for end in ends)
    first, last = (int(end.replace(",", "")) for end in said.split(":")[1].split("-"))
    return first, last


def width(driver):
    first, last = view(driver)
    return last - first + 1


def choose(driver, gene):
    before = text(driver, "range")
    driver.find_element("xpath", f"//*[@id='table']//tr[td[1]='{gene}']").click()
    until(driver, lambda d: text(d, "range") != before)
    driver.execute_async_script("report.shown.then(() => arguments[0]())")


def drawn(driver):
    return driver.execute_script("return report.browser.toSVG()")


def tracks(driver):
    return driver.execute_script("return report.browser.trackViews.map((view) => view.track.name).filter(Boolean)")


def real_names(driver):
    """Put names of the usual length into the rows that are on show."""
    driver.execute_script(
        "for (const row of document.querySelectorAll('#table tbody tr:not(.space)')) "
        "['ENSG00000100226', 'APOBEC3C', 'chr22:39,101,949 +'].forEach((text, at) => row.cells[at].textContent = text);"
    )


@pytest.mark.parametrize("width_px", [1_400, 390])
def test_nothing_sticks_out_of_the_page(driver, page, width_px):
    screen = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        for _ in opened_page(driver, page):
            real_names(driver)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width_px
            hidden = driver.execute_script(
                "const d = document.getElementById('list'); return d.scrollWidth - d.clientWidth"
            )
            assert hidden <= 0 or width_px < 600  # every column is seen; a phone scrolls within the table
            for name in ("search", "scatter", "list", "locus"):
                box = driver.execute_script(f"return document.getElementById('{name}').getBoundingClientRect().right")
                assert box <= width_px, name
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_complaints_and_requests_are_noticed(driver, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<img src='https://example.org/a.png'><script>console.error('broken'); missing();</script>")
    driver.get(page.as_uri())
    until(driver, lambda d: d.execute_script("return document.readyState") == "complete")
    said = complaints(driver)
    assert any("broken" in line for line in said)
    assert any("missing is not defined" in line for line in said)
    assert "https://example.org/a.png" in fetched(driver)


def test_the_highest_predicted_gene_is_shown_first(shown):
    assert text(shown, "title").startswith("gene05 (GENE05) chr2:8,001 +: predicted 100.000, observed 90.000")
    assert view(shown) == (6_001, 10_000)
    assert [head.text for head in heads(shown)] == [
        "gene", "name", "TSS", "predicted \u25bc", "observed", "difference", "kept, %", "elements", "CRISPRi",
    ]  # fmt: skip


def test_the_table_sorts(shown):
    genes = [f"GENE0{number}" for number in range(1, 8)]
    assert [float(value) for value in column(shown, "predicted")] == sorted(PREDICTED, reverse=True)
    sort_by(shown, "predicted")
    assert [float(value) for value in column(shown, "predicted")] == sorted(PREDICTED)
    sort_by(shown, "gene")
    assert column(shown, "gene") == genes
    sort_by(shown, "gene")
    assert column(shown, "gene") == genes[::-1]
    sort_by(shown, "TSS")
    places = ["chr1:701 +", "chr1:9,001 -", "chr1:21,501 +", "chr1:33,211 -", "chr2:8,001 +", "chr2:15,001 +"]
    assert column(shown, "TSS") == [*places, "chr2:29,501 -"]
    known = sorted(value for value in OBSERVED if value is not None)
    for rising in (False, True):
        sort_by(shown, "observed")
        *values, last = column(shown, "observed")
        assert [float(value) for value in values] == (known if rising else known[::-1])
        assert last == ""  # absent values stay last
    assert "\u25b2" in next(head.text for head in heads(shown) if head.text.startswith("observed"))


def test_a_click_on_a_gene_shows_its_locus(shown):
    choose(shown, "GENE02")
    assert text(shown, "title").startswith("gene02 (GENE02) chr1:9,001 -: predicted 10.000")
    assert view(shown) == (7_001, 11_000)
    assert tracks(shown) == ["genes", "CRISPRi", "h3k27ac", "dnase", "hic", "mask", "elements"]
    picture = drawn(shown)
    assert ">gene02<" in picture
    assert ">gene05<" not in picture
    assert all(colour in picture for colour in ("#7a3e9d", "#d1495b", "#2f6f9f"))  # mask, calls, the first track
    chosen = shown.find_elements("css selector", "#table tr.chosen td:first-child")
    assert [cell.text for cell in chosen] == ["GENE02"]
    choose(shown, "GENE01")
    assert view(shown) == (1, 2_700)  # its window reaches beyond the chromosome
    assert tracks(shown) == ["genes", "h3k27ac", "dnase", "hic", "mask", "elements"]


def test_what_igv_draws_are_the_values_of_the_page(shown, page):
    gene = data_of(page.read_text())["genes"][4]
    features = "return report.browser.trackViews.find((view) => view.track.name === arguments[0]).track.config.features"
    calls = shown.execute_script(features, "elements")
    spans = [[f["start"], f["end"]] for f in calls if "note" not in f]
    assert spans == [element[:2] for element in gene["elements"]]
    mask = shown.execute_script(features, "mask")
    assert (mask[0]["start"], mask[-1]["end"]) == (6_000, 10_000)
    assert all(first["end"] == second["start"] for first, second in itertools.pairwise(mask))
    inside = [feature["value"] for feature in mask if feature["end"] > 7_800 and feature["start"] < 8_200]
    assert set(inside) == {1}  # the promoter


def test_a_locus_zooms_and_moves(shown):
    from selenium.webdriver.common.action_chains import ActionChains

    until(shown, lambda d: width(d) == 4_000)
    shown.find_element("id", "in").click()
    until(shown, lambda d: width(d) == 2_000)
    assert view(shown) == (7_001, 9_000)
    shown.find_element("id", "in").click()
    until(shown, lambda d: width(d) == 1_000)
    shown.find_element("id", "out").click()
    until(shown, lambda d: width(d) == 2_000)
    first = view(shown)[0]
    place = shown.find_element("id", "locus")
    ActionChains(shown).move_to_element(place).click_and_hold().move_by_offset(-120, 0).release().perform()
    until(shown, lambda d: view(d)[0] > first)
    assert abs(width(shown) - 2_000) <= 1
    shown.find_element("id", "all").click()
    until(shown, lambda d: view(d) == (6_001, 10_000))


def test_a_name_that_is_nowhere_is_not_looked_up_elsewhere(shown):
    before = view(shown)
    found = shown.execute_async_script("report.browser.search('NOWHERE1').then(arguments[0])")
    assert not found
    assert view(shown) == before


def test_the_scatter_shows_the_genes_with_labels(shown):
    points = shown.find_elements("css selector", "#scatter circle")
    assert len(points) == 6
    assert text(shown, "agreement").endswith("6 genes, Pearson 0.999")
    title = "return arguments[0].querySelector('title').textContent"
    point = next(p for p in points if shown.execute_script(title, p).startswith("gene06:"))
    point.click()
    until(shown, lambda d: text(d, "title").startswith("gene06 (GENE06) chr2:29,501 -: predicted -20.000"))
    until(shown, lambda d: view(d) == (27_501, 30_000))
    (chosen,) = shown.find_elements("css selector", "#scatter circle.chosen")
    assert shown.execute_script(title, chosen).startswith("gene06:")


def search(driver, words):
    box = driver.find_element("id", "search")
    box.clear()
    box.send_keys(words, " ")


@pytest.mark.parametrize(
    ("words", "genes"),
    [
        ("gene02", ["GENE02"]),
        ("CHR2: +", ["GENE05", "GENE07"]),
        ("predicted>2 observed<=12", ["GENE01", "GENE02"]),
        ("predicted>=10 chr1", ["GENE02"]),
        ("nowhere", []),
    ],
)
def test_the_table_searches(shown, words, genes):
    search(shown, words)
    assert sorted(column(shown, "gene")) == genes
    assert text(shown, "count") == f"{len(genes)} of 7 genes"
    search(shown, "")
    assert len(column(shown, "gene")) == 7
    assert text(shown, "count") == "7 genes"


@pytest.fixture(scope="module")
def big_page(tiny, tmp_path_factory):
    """A page of 20,000 genes; the first seven are there, and their loci beside it."""
    from kipoi_seq2exp.view import report

    folder = tmp_path_factory.mktemp("big")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "INSIDE", 3)
        path = make_page(tiny, folder, "--threshold", "0.6", "--gtf", str(tiny.gtf))
    said = path.read_text()
    data = data_of(said)
    for number in range(7, 20_000):
        gene = {**data["genes"][number % 7], "gene_id": f"ENSG{number:011d}", "name": f"name{number}"}
        gene["expression"] = (number * 7_919 % 20_011) / 20_011 - 30
        gene["observed"] = gene["expression"] + (number % 13) / 13
        gene["residual"], gene["tss"] = gene["expression"] - gene["observed"], 700 + number
        data["genes"].append(gene)
    before, after = said.split(' id="data">')
    path.write_text(f'{before} id="data">{json.dumps(data)}{after[after.index("</script>") :]}')
    return path


READY_S, SORT_S = 2.0, 0.3  # at 20,000 genes


def thread_s(driver):
    """Processor time of the page's thread so far: other work on the machine moves the clock, not this."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime")


def test_a_page_of_20000_genes_does_not_stall(driver, big_page):
    """From nothing to the table, the scatter and the first locus; then what a click on a heading takes."""
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    driver.get("about:blank")
    before = thread_s(driver)
    for shown in opened_page(driver, big_page):
        now = thread_s(shown)
        assert now - (before if now > before else 0) < READY_S
        for label in ("gene", "TSS", "observed", "name"):
            before = thread_s(shown)
            shown.execute_script(
                "const named = (cell) => cell.textContent.startsWith(arguments[0]);"
                "[...document.querySelectorAll('th')].find(named).click();"
                "document.getElementById('list').getBoundingClientRect();",
                label,
            )
            assert thread_s(shown) - before < SORT_S, label
    driver.execute_cdp_cmd("Performance.disable", {})


def test_a_page_of_20000_genes_shows_every_row_and_loads_loci(driver, big_page):
    for shown in opened_page(driver, big_page):
        assert text(shown, "count") == "20,000 genes"
        assert len(column(shown, "gene")) <= 200  # those on show
        assert tracks(shown) == ["genes", "h3k27ac", "dnase", "hic", "mask", "elements"]
        assert ">gene" in drawn(shown)
        choose(shown, column(shown, "gene")[1])
        sort_by(shown, "gene")
        shown.execute_script("const list = document.getElementById('list'); list.scrollTop = list.scrollHeight;")
        until(shown, lambda d: column(d, "gene")[-1] == "GENE07")
        search(shown, "name19998")
        until(shown, lambda d: column(d, "gene") == ["ENSG00000019998"])
        search(shown, "observed>-1000 elements>=0 chr2:")
        until(shown, lambda d: text(d, "count").endswith("of 20,000 genes"))
        assert text(shown, "agreement").startswith("log10(CAGE + 1)") or "20,000 genes" in text(shown, "agreement")
        assert len(shown.find_elements("css selector", "#scatter circle")) <= 1


def test_a_locus_whose_file_is_missing_or_of_another_report_says_so(driver, big_page):
    driver.get(big_page.as_uri())
    until(driver, lambda d: text(d, "range"))
    search(driver, "name19998")
    driver.find_element("css selector", "#table td").click()
    until(driver, lambda d: "its file is missing" in text(d, "failure"))
    moved = big_page.parent / "report_loci"
    (moved / "19998.html").write_text((moved / "2.html").read_text())
    driver.find_element("css selector", "#table td").click()
    until(driver, lambda d: "its file is of another report (GENE03)" in text(d, "failure"))
    (moved / "19998.html").unlink()
    complaints(driver)
    fetched(driver)


def test_one_gene(tiny, driver, tmp_path):
    page = make_page(tiny, tmp_path, gene_ids=("GENE03",))
    for shown in opened_page(driver, page):
        assert column(shown, "gene") == ["GENE03"]
        assert view(shown) == (19_501, 23_500)
        assert not shown.find_element("id", "scatter-part").is_displayed()
        assert tracks(shown)[0] == "TSS"  # no gene models were given
        assert "GENE03" in drawn(shown)


def test_without_observed_values_and_without_elements(tiny, driver, tmp_path):
    table = tmp_path / "unlabelled.tsv"
    table.write_text(tiny.genes.read_text().replace("\tlabel\t", "\tunused\t"))
    plain = small_weights(tiny, tmp_path, "plain", variant="plain", generator_layers=0)
    page = make_page(tiny, tmp_path, weights=plain, genes=table)
    with read_predictions(tmp_path / "results") as found:
        assert not found.has_mask
    for shown in opened_page(driver, page):
        assert [head.text for head in heads(shown)] == ["gene", "TSS", "predicted \u25bc"]
        assert not shown.find_element("id", "scatter-part").is_displayed()
        assert tracks(shown) == ["TSS", "h3k27ac", "dnase", "hic"]
        assert text(shown, "legend") == ""
        choose(shown, column(shown, "gene")[-1])
        assert width(shown) > 2_000
    assert not (page.parent / "elements.bed").exists()


def test_no_element_called(tiny, driver, tmp_path):
    page = make_page(tiny, tmp_path, "--threshold", "1", "--min-length", "3999")
    for shown in opened_page(driver, page):
        assert set(column(shown, "elements")) == {"0"}
        assert tracks(shown)[-2:] == ["mask", "elements"]


ATTACK = "<img src=x onerror='window.ran=1'>"


def test_no_text_of_a_file_runs_in_the_page(driver, page, tmp_path):
    hostile = tmp_path / "hostile.html"
    said = page.read_text()
    for name in ("GENE05", "gene05", "dnase"):
        said = said.replace(f'"{name}"', json.dumps(f"{name}{ATTACK}").replace("<", "\\u003c"))
    hostile.write_text(said)
    assert said.count("\\u003cimg") >= 4
    for shown in opened_page(driver, hostile):
        shown.execute_async_script("report.shown.then(() => arguments[0]())")
        assert any("dnase\u2039img" in name for name in tracks(shown))
        assert shown.execute_script("return [window.ran, document.querySelectorAll('img[src=x]').length]") == [None, 0]


def test_the_policy_of_the_page_runs_no_script_but_its_own(driver, page):
    for shown in opened_page(driver, page):
        shown.execute_script(
            "const box = document.createElement('p'); box.innerHTML = arguments[0]; document.body.append(box);"
            "const own = document.createElement('script'); own.textContent = 'window.ran=2';"
            "document.body.append(own);",
            ATTACK,
        )
        until(shown, lambda d: sum("Content Security Policy" in line for line in complaints(d)) >= 1)
        assert shown.execute_script("return window.ran") is None
        complaints(shown)
