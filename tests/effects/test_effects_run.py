"""Variant effects that stop and go on: one store, each row once, the same files here and on a cluster."""

from __future__ import annotations

import pytest
from small_runs import command_line, small_weights

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.effects import run as module
from kipoi_seq2exp.effects.run import STORE_NAME, EffectStore
from kipoi_seq2exp.errors import OutputError

RESULTS = ("variants.tsv", "variants.vcf", "variants.json")


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory):
    """Return weights, and a VCF of 12 substitutions near two genes."""
    folder = tmp_path_factory.mktemp("variants")
    lines = []
    for pos in (*range(8_400, 8_430, 5), *range(21_000, 21_030, 5)):
        ref = tiny.bases["chr1"][pos : pos + 1].decode().upper()
        lines.append(f"chr1\t{pos + 1}\tv{pos}\t{ref}\t{'ACGT'[('ACGT'.index(ref) + 1) % 4]}\t.\t.\t.\n")
    vcf = folder / "v.vcf"
    vcf.write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(lines))
    return small_weights(tiny, folder), vcf


def command(tiny, files, output, *more):
    return command_line(tiny, files[0], output, *more, command=f"variants {files[1]}")


@pytest.fixture(scope="module")
def whole_run(tiny, files, tmp_path_factory):
    """Return the results of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(command(tiny, files, folder)) == 0
    return results_of(folder)


def results_of(folder):
    return {name: (folder / name).read_bytes() for name in RESULTS}


def test_an_interrupted_run_goes_on(tiny, files, whole_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "UNIT", 2)
    write, written = EffectStore.write, []

    def stop(self, key, effects):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(key)
        write(self, key, effects)

    monkeypatch.setattr(EffectStore, "write", stop)
    assert main(command(tiny, files, tmp_path)) != 0
    assert "interrupted: 4 of 12 rows are complete" in capsys.readouterr().err
    assert not (tmp_path / "variants.tsv").exists()
    monkeypatch.setattr(EffectStore, "write", write)
    assert main(command(tiny, files, tmp_path)) == 0
    assert "resuming: 4 of 12 rows" in capsys.readouterr().out
    assert results_of(tmp_path) == whole_run


def test_other_effects_are_not_mixed_in(tiny, files, tmp_path, capsys):
    path = tmp_path / STORE_NAME
    EffectStore.open(path, {"weights": "a"}).close()
    with pytest.raises(OutputError, match=r"weights was a, now b.*--overwrite"):
        EffectStore.open(path, {"weights": "b"})
    EffectStore.open(path, {"weights": "b"}, overwrite=True).close()
    assert main(command(tiny, files, tmp_path)) == 1
    assert "holds results of other inputs or settings" in capsys.readouterr().err
    path.write_text("no store, but a file that somebody wrote" * 100)
    assert main(command(tiny, files, tmp_path)) == 1
    assert "cannot be used as this command's store" in capsys.readouterr().err
