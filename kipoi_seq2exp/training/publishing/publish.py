"""From a run folder to a served model: weights/<name>.safetensors, its card, and its rows of models.tsv.

What follows from those (model.yaml, the expected predictions of the example) is rewritten by
`kipoi_seq2exp.zoo.served.refresh`. A process that is killed meanwhile leaves notes of the earlier state. The next
process that publishes, or that finds weights other than those of the table, restores everything from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kipoi_seq2exp.config import InputSpec, NetworkConfig
from kipoi_seq2exp.errors import ConfigError, InputError, WeightsError, counted, excerpt
from kipoi_seq2exp.files import changed_together, is_plain_name, make_folder, undo_leftovers, write_text
from kipoi_seq2exp.nn.checkpoint import save_model
from kipoi_seq2exp.nn.losses import ErrorLoss
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.settings import from_mapping, read_json, read_yaml, suggest
from kipoi_seq2exp.training.config import TrainingConfig, training_config
from kipoi_seq2exp.training.publishing.use import use_lines
from kipoi_seq2exp.training.sections import Learns, Scheme, SplitConfig
from kipoi_seq2exp.zoo.group import MADE, check_agreement, member_inputs, read_about
from kipoi_seq2exp.zoo.models import load_model
from kipoi_seq2exp.zoo.registry import PROVISIONAL, ServedModel, group_dir, read_served, write_served
from kipoi_seq2exp.zoo.served import refresh

LIMIT_BYTES = 20_000_000  # weights travel in the repository and in the wheel
STATUSES = (PROVISIONAL, "trained")
OUTPUTS = "expression,element_mask"
EXPRESSION_ONLY = "-expression"  # the member of the group whose rows stay readable as a table
MODELS_TSV = "models.tsv"
ERRORS = {ErrorLoss.SMOOTH_L1: "smooth L1", ErrorLoss.SQUARED: "squared error"}


@dataclass(frozen=True)
class Published:
    """What was written.

    Attributes
    ----------
    weights, card : Path
    rows : tuple of ServedModel
        The rows of models.tsv that now name these weights.
    """

    weights: Path
    card: Path
    rows: tuple[ServedModel, ...]


@dataclass(frozen=True)
class ServedAs:
    """Which part of a run is served, and how.

    Attributes
    ----------
    licence : str or None
        Licence of the weights; None for the group's.
    cell_type : str or None
        The cell type to serve the weights for, of those that the run learned from; None for the first.
    reads_dna : bool
        False: the served weights read every base as N (`NetworkConfig.reads_dna`).
    """

    licence: str | None = None
    cell_type: str | None = None
    reads_dna: bool = True


def publish(
    run: str | Path,
    name: str,
    group: Path | None = None,
    *,
    status: str = "trained",
    drop_others: bool = False,
    choice: ServedAs | None = None,
) -> Published:
    """Serve the weights of a run under a name; what follows from them is rewritten by `served.refresh`.

    Parameters
    ----------
    run : path
        A run folder written by `fit`.
    name : str
        Name in the group, e.g. "K562".
    group : Path, optional
        The group's folder; by default the installation's own.
    status : str
        "trained", or "provisional" for weights that only show that the software works.
    drop_others : bool
        Take members that read other tracks or features out of the group (Kipoi gives a group one data loader).
    choice : ServedAs, optional
        For which cell type, with DNA or without, and under which licence.

    Raises
    ------
    InputError
        If the run is not finished.
    ConfigError
        If the status is unknown, or another member of the group reads other tracks or features.
    WeightsError
        If the weights are too large to be served.
    """
    run, group = Path(run), group or group_dir()
    if status not in STATUSES:
        raise ConfigError(f"unknown status '{status}'{suggest(status, STATUSES)}.")
    check_member_name(name)
    choice = choice or ServedAs()
    model, record, config = read_run(run, choice.cell_type)
    model.config = dataclasses.replace(model.config, reads_dna=model.config.reads_dna and choice.reads_dna)
    if model.inputs is None:
        raise ConfigError("the weights do not say which inputs they read: train them with this version.")
    others = _others(group, f"weights/{name}.safetensors")
    dropped = _disagreeing(group, others, model.inputs, name, drop_others)
    source = str(record["weights_sha256"])
    licence = choice.licence or model.provenance.licence
    model.provenance = dataclasses.replace(model.provenance, status=status, source_sha256=source, licence=licence)
    weights, card = group / "weights" / f"{name}.safetensors", group / "weights" / f"{name}.md"
    size = (run / "best.safetensors").stat().st_size
    if size > LIMIT_BYTES:
        raise WeightsError(
            f"{run}: the weights take {size / 1e6:.0f} MB; served ones may take {LIMIT_BYTES / 1e6:.0f} MB."
        )
    gone = [(group / file).with_suffix(ending) for file in dropped for ending in (".safetensors", ".md")]
    make_folder(weights.parent)
    undo_leftovers(group)
    with changed_together((group / MODELS_TSV, weights, card, *gone)):
        sha256 = save_model(model, weights)
        write_text(card, render_card(name, model, config, record, sha256))
        rows = _update_rows(group, name, model, config, sha256, dropped)
    return Published(weights, card, rows)


def publish_and_refresh(
    run: str | Path,
    name: str,
    group: Path | None = None,
    *,
    status: str = "trained",
    drop_others: bool = False,
    choice: ServedAs | None = None,
) -> tuple[Published, tuple[Path, ...]]:
    """Publish weights and rewrite what follows from them, together or not at all.

    Parameters
    ----------
    run, name, group, status, drop_others, choice
        As of `publish`, which says what is raised, too.

    Returns
    -------
    Published, tuple of Path
        What was published; the files that follow from it, of a group that serves its default member.
    """
    group = group or group_dir()
    check_member_name(name)
    undo_leftovers(group)
    with changed_together(_files_of(group, name)):
        published = publish(run, name, group, status=status, drop_others=drop_others, choice=choice)
        whole = read_about(group).default in read_served(group)
        return published, refresh(group) if whole else ()


def _files_of(group: Path, name: str) -> list[Path]:
    """Return the files of a group that publishing a member and refreshing the group may change."""
    folders = {"weights": ("{}.safetensors", "{}.md"), "example/expected": ("{}.h5", f"{{}}{EXPRESSION_ONLY}.h5")}
    files = [group / file for file in (MODELS_TSV, "model.yaml", *MADE)]
    for folder, names in folders.items():
        there = [path for path in (group / folder).glob("*") if path.is_file()]
        files += sorted({*there, *(group / folder / file.format(name) for file in names)})
    return files


def check_member_name(name: str) -> None:
    """Refuse a name that is a path, is hidden or cannot be a file's name.

    Raises
    ------
    ConfigError
        If it is such a name.
    """
    if not is_plain_name(name):
        raise ConfigError(
            f"a model's name must be at most 120 letters, digits, '.', '-', '+' and '_', the first no '.' or '-', "
            f"found '{excerpt(name, 130)}': give another one (--as)."
        )


def _others(group: Path, weights: str) -> dict[str, ServedModel]:
    """Return the rows of models.tsv that name other weights."""
    served = read_served(group) if (group / MODELS_TSV).is_file() else {}
    return {name: row for name, row in served.items() if row.weights != weights}


def _disagreeing(
    group: Path, others: Mapping[str, ServedModel], inputs: InputSpec, name: str, drop: bool
) -> frozenset[str]:
    """Return the members whose weights read other inputs, if they may be dropped; else refuse."""
    found = set()
    for other, row in others.items():
        try:
            check_agreement(inputs, name, member_inputs(group, other), other)
        except ConfigError:
            if not drop:
                raise
            found.add(row.weights)
    return frozenset(found)


def read_run(run: Path, cell_type: str | None = None) -> tuple[Seq2Exp, dict[str, Any], TrainingConfig]:
    """Return the network, the record and the settings of a finished run, for one of its cell types.

    Raises
    ------
    InputError
        If the folder is not one.
    ConfigError
        If the run did not learn from that cell type.
    """
    for name in ("best.safetensors", "record.json", "config.yaml"):
        if not (run / name).is_file():
            raise InputError(f"{run}: holds no {name}: it is not a finished run of 'seq2exp train'.")
    record = read_json(run / "record.json")
    if not isinstance(record.get("weights_sha256"), str):
        raise InputError(f"{run / 'record.json'} is damaged: it does not say which weights the run made.")
    config = training_config(read_yaml(run / "config.yaml"), str(run / "config.yaml"))
    model = load_model(run / "best.safetensors", "cpu", sha256=record["weights_sha256"])
    if cell_type is None or cell_type == config.inputs.cell_type:
        return model, record, config
    learned = [data.cell_type for data in config.data]
    if cell_type not in learned:
        raise ConfigError(f"the run did not learn from the cell type '{cell_type}'{suggest(cell_type, learned)}.")
    if model.inputs is not None:
        model.inputs = dataclasses.replace(model.inputs, cell_type=cell_type)
    scores = record.get("scores", {}).get(cell_type, {})
    model.provenance = dataclasses.replace(model.provenance, scores=scores)
    return model, record, dataclasses.replace(config, inputs=dataclasses.replace(config.inputs, cell_type=cell_type))


def _update_rows(
    group: Path, name: str, model: Seq2Exp, config: TrainingConfig, sha256: str, dropped: frozenset[str]
) -> tuple[ServedModel, ...]:
    """Rewrite the rows of models.tsv that name these weights; make the two usual ones where there are none."""
    served = read_served(group) if (group / MODELS_TSV).is_file() else {}
    served = {member: row for member, row in served.items() if row.weights not in dropped}
    weights, provenance = f"weights/{name}.safetensors", model.provenance
    common = {
        "cell_type": config.inputs.cell_type,
        "weights": weights,
        "weights_sha256": sha256,
        "status": provenance.status,
        "trained_on": _one_line(f"{provenance.trained_on}. {config.about}" if config.about else provenance.trained_on),
        "training_procedure": _one_line(training_procedure(config)),
    }
    outputs = {name: OUTPUTS if model.config.generates_mask else "expression", f"{name}{EXPRESSION_ONLY}": "expression"}
    for member, given in outputs.items():
        if member not in served:
            served[member] = ServedModel(model=member, outputs=given, **common)
    for member, row in served.items():
        if row.weights == weights:
            served[member] = dataclasses.replace(row, **common)
    write_served(served.values(), group)
    for file in dropped:
        for path in (group / file, (group / file).with_suffix(".md")):
            path.unlink(missing_ok=True)
    return tuple(row for row in served.values() if row.weights == weights)


def _one_line(text: str) -> str:
    """Make a text fit a cell of models.tsv."""
    return " ".join(text.replace('"', "'").replace("#", "no. ").split())


def training_procedure(config: TrainingConfig) -> str:
    """Return a sentence on how the weights were trained."""
    o, network = config.optimiser, config.network
    seeds = f"seed {config.seed}"
    if config.members > 1:
        seeds = f"{config.members} members, seeds {config.seed} to {config.seed + config.members - 1}"
    parts = [
        f"{network.variant.value} variant, d_model {network.d_model}",
        f"{network.generator_layers} + {network.encoder_layers} layers",
        f"AdamW, peak learning rate {o.peak_lr:g}, weight decay {o.weight_decay:g}, {o.max_steps:,} steps of "
        f"{o.batch_size * o.accumulate} windows of {config.window_bp:,} bp",
        f"{ERRORS[o.error]} + {o.kl_weight:g} KL",
        f"shifts up to {config.augment.max_shift_bp} bp, reverse complement with probability "
        f"{config.augment.reverse_complement:g}",
        f"start {config.start}" + (", the head alone learned" if o.learns is Learns.HEAD else ""),
        f"{config.run.keep.value} weights, {seeds}",
    ]
    return "; ".join(parts)


# ---------------------------------------------------------------------------------------------------------- the card


def render_card(name: str, model: Seq2Exp, config: TrainingConfig, record: Mapping[str, Any], sha256: str) -> str:
    """Return the card of served weights, in Markdown."""
    provenance = model.provenance
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [f"# Seq2Exp/{name}", ""]
    if provenance.status == PROVISIONAL:
        lines += ["**Provisional weights: they show that the software works and say nothing about biology.**", ""]
    lines += [
        "| | |",
        "|---|---|",
        f"| Weights | `weights/{name}.safetensors`, {parameters:,} parameters, SHA-256 `{sha256}` |",
        f"| Predicts | {config.inputs.label} |",
        f"| Window | {config.inputs.window_bp:,} bp round the TSS, trained on {config.window_bp:,} bp |",
        f"| Trained on | {provenance.trained_on} |",
        f"| How | {training_procedure(config)} |",
        f"| Time | {record['seconds']:,.0f} s ({record['machine']}) |",
        f"| Versions | {', '.join(f'{package} {number}' for package, number in provenance.versions.items())} |",
        f"| Licence | {provenance.licence} |",
        "",
        *([config.about.strip(), ""] if config.about else []),
        *use_lines(name, config.inputs),
        *_card_scores(provenance.scores, config, record),
        *_card_data(record),
        "## Limits",
        "",
        *(f"- {limit}" for limit in (*config.limits, *_usual_limits(config))),
        "",
        "## Settings of the network",
        "",
        *_card_network(model.config),
    ]
    return "\n".join(lines) + "\n"


def _card_scores(scores: Mapping[str, float], config: TrainingConfig, record: Mapping[str, Any]) -> list[str]:
    if not scores:
        return ["## Scores", "", "None: no gene was held out.", ""]
    how = f"Genes held out: {_held_out(config.split)}."
    if config.split.scheme is Scheme.CROSS_VALIDATION:
        how = (
            f"Cross-validation: every gene predicted once by a model that never saw its '{config.split.column}' "
            f"({', '.join(record['cross_validation']['values'])}). "
            "The served weights come from the same recipe on all genes."
        )
    rows = [
        f"| {metric} | {scores[metric]:.3f} | {scores[f'{metric}_low']:.3f} to {scores[f'{metric}_high']:.3f} |"
        for metric in ("mse", "mae", "pearson", "spearman")
        if f"{metric}_low" in scores
    ]
    return [
        "## Scores",
        "",
        how,
        "",
        "| score | value | 95 % bootstrap interval over genes |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _held_out(split: SplitConfig) -> str:
    return f"fold {split.fold} of the paper" if split.scheme is Scheme.FOLD else ", ".join(split.test)


def _card_data(record: Mapping[str, Any]) -> list[str]:
    lines = ["## Data", ""]
    for data in record["data"]:
        lines += [
            f"{counted(data['n_genes'], 'gene')} of `{data['genes']}`, DNA `{data['fasta']}`:",
            "",
            "| track | file | unit |",
        ]
        lines += ["|---|---|---|"]
        lines += [
            f"| {track} | {row['source']} | {row['unit']}; transform: {row['transform']} |"
            for track, row in data["tracks"].items()
        ]
        lines += ["", f"Features: {'; '.join(f'{key}: {value}' for key, value in data['features'].items())}.", ""]
    return lines


def _usual_limits(config: TrainingConfig) -> list[str]:
    tracks = ", ".join(config.inputs.track_names)
    limits = [f"A track ({tracks}) of another signal type or depth than the training tracks shifts the predictions."]
    if config.window_bp < config.inputs.window_bp:
        limits.append(f"Training saw {config.window_bp:,} bp: how more distant bases act was not learned.")
    return limits


def _card_network(network: NetworkConfig) -> list[str]:
    default = from_mapping(NetworkConfig, {}, "defaults")
    changed = [
        f"- {f.name}: {getattr(network, f.name)} (published: {getattr(default, f.name)})"
        for f in dataclasses.fields(network)
        if getattr(network, f.name) != getattr(default, f.name)
    ]
    return changed or ["As published."]
