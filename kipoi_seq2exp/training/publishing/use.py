"""How a card says to use its weights: the command, and where each track comes from."""

from __future__ import annotations

from kipoi_seq2exp.config import FeatureSpec, InputSpec, TrackKind, TrackSpec
from kipoi_seq2exp.data.tracks.recipes import recipe_of


def use_lines(name: str, inputs: InputSpec) -> list[str]:
    """Return the section of a card that says how to predict with its weights, in Markdown."""
    tracks = [
        f"--track {spec.name}={'powerlaw' if spec.kind is TrackKind.CONTACT else 'FILE'}" for spec in inputs.tracks
    ]
    files = ["--fasta genome.fa --genes genes.tsv", *tracks]
    needed = [(feature.columns or (feature.name,))[0] for feature in inputs.features if _is_given(feature)]
    genes = f"Columns of the gene table beside gene_id, chrom, tss and strand: {', '.join(needed) or 'none'}."
    if needed:
        genes += " `seq2exp features genes.gtf genome.fa -o genes.tsv` makes such a table."
    return [
        "## Predict",
        "",
        "```sh",
        f"seq2exp predict weights/{name}.safetensors \\",
        *(f"    {words} \\" for words in files),
        "    -o results/",
        "```",
        "",
        f"All files of the assembly {inputs.assembly}. {genes}",
        "",
        *(f"- {_track_line(spec)}" for spec in inputs.tracks),
        "",
    ]


def _is_given(feature: FeatureSpec) -> bool:
    return not (feature.from_tracks or feature.from_strand)


def _track_line(spec: TrackSpec) -> str:
    if spec.kind is TrackKind.CONTACT:
        return f"**{spec.name}**: Hi-C as `.cool`, `.mcool` or `.hic`, or the word `powerlaw`"
    recipe = recipe_of(spec)
    text = f"**{spec.name}** in the unit '{spec.unit or 'that of the file'}'"
    if spec.stand_in:
        text += f" (may be left out: {spec.stand_in} is then read in its place)"
    if recipe is None:
        return f"{text}: {spec.description or 'as in training'}"
    commands = "; ".join(f"`{line}`" for line in recipe.command.splitlines())
    text += f": from ENCODE, {recipe.encode}" if recipe.encode else ": ENCODE has no such file"
    return f"{text}; from your reads, {commands}{f' ({recipe.caveat})' if recipe.caveat else ''}"
