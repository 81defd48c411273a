"""Frozen settings of the network and of its inputs: stored beside weights, written in a run's YAML (see `settings`)."""

from __future__ import annotations

import enum
import itertools
import os
from dataclasses import dataclass, field

from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.settings import check_largest, suggest

MOST_SHUFFLES = 10_000  # of a window or a site
MOST_BATCH = 100_000  # windows
MOST_BP = 10_000_000  # of a window
MOST_SEED = 2**32 - 1
PRODUCTS_VARIABLE = "SEQ2EXP_PROJECTIONS"

# ------------------------------------------------------------------------------------------------------- the network


class Variant(str, enum.Enum):
    """Which network: the two published ones, and the two baselines of the paper's table."""

    SOFT = "soft"  # generator and encoder of their own; the mask scales the encoder's input
    HARD = "hard"  # one shared stack and a learned positional embedding; only the kept bases are encoded
    PEAKS = "peaks"  # encoder only; the mask (called peaks) is given from outside
    PLAIN = "plain"  # encoder only and no mask: the Caduceus baseline, with signals or (n_tracks = 0) without


class MaskMode(str, enum.Enum):
    """How the evaluation mask follows from the mean of the Beta distribution of each base."""

    SOFT = "soft"  # the mean itself
    HARD = "hard"  # 1 where the mean reaches 0.5
    TOP = "top"  # 1 for the top fraction of the window
    TOP_SOFT = "top-soft"  # the mean for the top fraction of the window


class Products(str, enum.Enum):
    """Number type of the two large matrix products of a layer (in_proj, out_proj) in predictions on a CPU."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @classmethod
    def chosen(cls, name: str | None = None) -> Products:
        """Read a name; by default what the environment variable `PRODUCTS_VARIABLE` says, else float32."""
        source = "projections"
        if name is None:
            source, name = PRODUCTS_VARIABLE, os.environ.get(PRODUCTS_VARIABLE)
        try:
            return cls(name or cls.FLOAT32)
        except ValueError:
            raise ConfigError(f"{source}: unknown type '{name}'{suggest(str(name), [p.value for p in cls])}.") from None


_LARGEST = {  # of a network that anyone could run: a slip or a crafted file must not fill the memory
    "window_bp": MOST_BP,
    "memory_bp": MOST_BP,
    "n_tracks": 1_000,
    "n_features": 10_000,
    "d_model": 8_192,
    "d_state": 1_024,
    "d_conv": 64,
    "expand": 16,
    "generator_layers": 256,
    "encoder_layers": 256,
    "token_bp": 100_000,
    "stem_bp": 1_000,
    "contact_pool": 1_024,
    "members": 100,
}


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that the network's arithmetic depends on; the defaults are those of the published soft model.

    Attributes
    ----------
    variant : Variant
        Soft: the mask scales what the encoder reads. Hard: only the kept bases are encoded. Peaks: the mask is given.
        Plain: no mask.
    mask_mode : MaskMode
        How predictions read the mask: its mean, 1 where the mean reaches `threshold`, or the top `top_fraction` alone.
    window_bp, promoter_bp : int
        Length of the window (L) and of the central promoter (P) that is always kept, in base pairs.
    n_tracks, n_features : int
        Number of signal tracks (S) and of scalar gene features (F).
    d_model, d_state, d_conv, expand : int
        Width of the network (D); of a Mamba layer: states per channel, width of its convolution, factor of d_inner.
    generator_layers, encoder_layers : int
        Layers that make the mask, and that read what it keeps.
    norm_eps : float
        Added inside the root of RMSNorm.
    beta_min, prior_scale, z_scale : float
        Offset and scale of the concentrations (paper: evidence of tracks and DNA); see `nn.bottleneck`.
    marginal_mean, marginal_scale : float
        The prior of the information bottleneck, Beta(scale, scale * (1 - mean) / mean).
    prior_weights, signal_betas : tuple of float, (S,)
        Initial share of each track (before the softmax) and its evidence against keeping a base.
    threshold, top_fraction : float
        Settings of the mask modes "hard" and "top".
    straight_through : bool
        Hard variant, training: let the prediction loss reach the generator (the published code does not).
    token_bp : int
        Bases that the network reads as one position (see `nn.tokens`); divides `promoter_bp`. Published: 1.
    stem_bp : int
        With tokens: width of the convolution that reads their DNA, in base pairs.
    memory_bp : int or None
        How far the slowest states of a layer reach when training starts, in base pairs. None: as published, 1,000
        positions.
    contact_pool : int
        This many sums over all positions outside the promoter, of activity x contact x mask, are added to what the head
        predicts, each as gain x ln(sum + 1) with activity and gain learned and never negative: an element acts by its
        contact with the TSS, can only add, and does not act when it is masked out. Published: 0.
    contact_track : int or None
        Which track is the contact, as log10(contact + 1), from 0; needed by `contact_pool` alone.
    encoder_bp : int or None
        How much of the centre of the window the encoder reads, in base pairs. What lies beyond reaches the expression
        by `contact_pool` alone, whose activities then come from a convolution over nine positions: the effect of a far
        element is its own activity x contact x mask. None: as published, the whole window.
    spans_bp : tuple of int
        Distances from the TSS, rising, that bound spans on either side of it: of each span the head reads the mean of
        every track x mask, as ln(10 x mean + 1). So an element counts by where it lies and by how much of it the mask
        keeps. This path bypasses RMSNorm, which hides most of what a soft mask removes. Published: none.
    strand_feature : int or None
        Which gene feature is the strand (1 or -1), from 0: the window of a gene on the reverse strand is read from the
        other strand, so that the network sees every gene 5' to 3'; outputs are turned back to the forward strand. The
        head does not see this feature. None: as published, the forward strand whatever the gene's.
    members : int
        Networks that predict together, with parameters of their own: the mask is read from the mean of their evidence,
        the expression is the mean of theirs. Published: 1.
    reads_dna : bool
        False: every base reads as N, for weights that saw too little DNA in training to make sense of it.
    """

    variant: Variant = Variant.SOFT
    mask_mode: MaskMode = MaskMode.SOFT
    window_bp: int = 200_000
    promoter_bp: int = 2_000
    n_tracks: int = 3
    n_features: int = 9
    d_model: int = 128
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    generator_layers: int = 4
    encoder_layers: int = 4
    norm_eps: float = 1e-5
    beta_min: float = 1.0
    prior_scale: float = 10.0
    z_scale: float = 1.0
    marginal_mean: float = 0.1
    marginal_scale: float = 10.0
    prior_weights: tuple[float, ...] = (2.0, 2.0, 1.0)
    signal_betas: tuple[float, ...] = (1.5, 0.2, 1.0)
    threshold: float = 0.5
    top_fraction: float = 0.1
    straight_through: bool = True
    token_bp: int = 1
    stem_bp: int = 15
    memory_bp: int | None = None
    contact_pool: int = 0
    contact_track: int | None = None
    encoder_bp: int | None = None
    spans_bp: tuple[int, ...] = ()
    strand_feature: int | None = None
    reads_dna: bool = True
    members: int = 1

    def __post_init__(self) -> None:
        positive = ("window_bp", "promoter_bp", "d_model", "d_state", "d_conv", "expand", "encoder_layers", "norm_eps")
        for name in (*positive, "prior_scale", "z_scale", "marginal_scale", "token_bp", "stem_bp", "members"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, found {getattr(self, name)}.")
        for name in ("n_tracks", "n_features", "beta_min", "generator_layers", "contact_pool"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, found {getattr(self, name)}.")
        check_largest(self, _LARGEST)
        for name in ("marginal_mean", "threshold", "top_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie between 0 and 1, found {getattr(self, name)}.")
        if self.window_bp < self.promoter_bp or self.window_bp % 2 or self.promoter_bp % 2:
            raise ConfigError(
                f"window_bp ({self.window_bp}) and promoter_bp ({self.promoter_bp}) must be even, "
                "the window the longer."
            )
        self._check_tokens()
        self._check_variant()

    def _check_tokens(self) -> None:
        """Check what is ours beyond the published network."""
        if self.promoter_bp % self.token_bp:
            raise ConfigError(
                f"token_bp ({self.token_bp}) must divide promoter_bp ({self.promoter_bp:,}): the promoter is a whole "
                "number of tokens (e.g. token_bp 64 and promoter_bp 2048)."
            )
        if self.memory_bp is not None and self.memory_bp < self.token_bp:
            raise ConfigError(f"memory_bp ({self.memory_bp}) must be at least token_bp ({self.token_bp}).")
        if self.contact_pool and (self.contact_track is None or not 0 <= self.contact_track < self.n_tracks):
            raise ConfigError(
                f"contact_pool needs contact_track, the number of the contact among the {self.n_tracks} tracks (from "
                f"0), found {self.contact_track}."
            )
        if self.encoder_bp is not None and not self.promoter_bp <= self.encoder_bp <= self.window_bp:
            raise ConfigError(
                f"encoder_bp ({self.encoder_bp:,}) must hold the promoter ({self.promoter_bp:,} bp) and lie in the "
                f"window ({self.window_bp:,} bp)."
            )
        edges = (0, *self.spans_bp, self.window_bp // 2 + 1)
        if any(first >= second for first, second in itertools.pairwise(edges)):
            raise ConfigError(
                f"spans_bp must rise from above 0 to at most half the window ({self.window_bp // 2:,} bp), found "
                f"{list(self.spans_bp)}."
            )
        if self.encoder_bp is not None and not self.contact_pool:
            raise ConfigError("encoder_bp needs contact_pool: nothing else reads what lies beyond.")
        if self.strand_feature is not None and not 0 <= self.strand_feature < self.n_features:
            raise ConfigError(
                f"strand_feature must number one of the {self.n_features} gene features (from 0), found "
                f"{self.strand_feature}."
            )
        if self.contact_pool and self.variant is Variant.HARD:
            raise ConfigError("contact_pool does not go with the hard variant: it encodes the kept bases alone.")

    def _check_variant(self) -> None:
        """Check what only some of the variants need."""
        if self.generates_mask:
            for name in ("prior_weights", "signal_betas"):
                if len(getattr(self, name)) != self.n_tracks or self.n_tracks == 0:
                    raise ConfigError(
                        f"{name} must hold one number for each of the {self.n_tracks} tracks (at least one track), "
                        f"found {list(getattr(self, name))}."
                    )
            if self.generator_layers == 0:
                raise ConfigError(f"generator_layers must be above 0 in the variant '{self.variant.value}'.")
        if self.variant is Variant.HARD and self.generator_layers != self.encoder_layers:
            raise ConfigError(
                "generator_layers and encoder_layers must agree in the hard variant: the stack is shared."
            )

    @property
    def generates_mask(self) -> bool:
        """Whether the network makes its own mask (the two published variants do)."""
        return self.variant in (Variant.SOFT, Variant.HARD)

    @property
    def n_span_means(self) -> int:
        """Number of means that the head reads: of each track over each span, on both sides of the TSS."""
        return 2 * len(self.spans_bp) * self.n_tracks

    @property
    def d_inner(self) -> int:
        """Width inside a Mamba mixer."""
        return self.expand * self.d_model

    @property
    def dt_rank(self) -> int:
        """Rank of the projection that gives the step size: ceil(d_model / 16)."""
        return -(-self.d_model // 16)


# -------------------------------------------------------------------------------------------------------- the inputs


class TrackKind(str, enum.Enum):
    """How a track is read: one value per base from a bigWig, or contact of each 5-kb bin with the TSS."""

    BIGWIG = "bigwig"
    CONTACT = "contact"


class Transform(str, enum.Enum):
    """Elementwise change of a track's values before the network."""

    NONE = "none"
    LOG10P1 = "log10p1"  # log10(x + 1)
    LOG1P = "log1p"  # ln(x + 1)


RANGE_LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Quantiles that a `TrackRange` holds."""


@dataclass(frozen=True)
class TrackRange:
    """What a track looks like over the windows of the training genes: quantiles over genes, at `RANGE_LEVELS`.

    Attributes
    ----------
    covered : tuple of float
        Share of a window's bases that have a value above 0.
    height : tuple of float
        Mean of the values above 0, in the track's own unit.
    """

    covered: tuple[float, ...]
    height: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("covered", "height"):
            values = getattr(self, name)
            if len(values) != len(RANGE_LEVELS) or any(not a <= b for a, b in itertools.pairwise(values)):
                raise ConfigError(f"{name} must hold {len(RANGE_LEVELS)} rising quantiles, found {list(values)}.")


@dataclass(frozen=True)
class TrackSpec:
    """One signal track that a model reads: a row of the table of tracks, in the model's order.

    Attributes
    ----------
    name : str
        The name that `sources` and ``--track NAME=FILE`` use.
    kind : TrackKind
        A value per base, or contact with the TSS.
    transform : Transform
        Applied to each value before the network.
    unit, description : str
        Shown on cards, in pictures and in messages.
    training : TrackRange or None
        What the track looked like in training, noted by the training itself: other files are compared with it.
    stand_in : str
        The track that is read in place of this one where no file is given for it; empty: a file must be given.
    """

    name: str
    kind: TrackKind = TrackKind.BIGWIG
    transform: Transform = Transform.NONE
    unit: str = ""
    description: str = ""
    training: TrackRange | None = None
    stand_in: str = ""


@dataclass(frozen=True)
class FeatureSpec:
    """One scalar feature of a gene.

    Attributes
    ----------
    name : str
        Name of the feature.
    unit, description : str
        Shown on the card and in messages.
    columns : tuple of str
        Columns of the gene table that may hold it, the first present one is read; empty: only `name`.
    limit : float or None
        Largest believable absolute value; above it the column holds something else (raw lengths, say).
    mean : float or None
        Mean over the training genes, used for a missing value when the user asks for it.
    from_tracks : tuple of str
        Tracks whose values at the TSS +- `flank_bp` give the feature (geometric mean of their means) when no column
        holds it; empty: the feature must be given.
    flank_bp : int
        Bases that `from_tracks` reads on either side of the TSS.
    transform : Transform
        Applied to the value, however it was found (`limit` and `mean` are of the value before).
    from_strand : bool
        The feature is the gene's strand, 1 or -1; no column is read.
    """

    name: str
    columns: tuple[str, ...] = ()
    unit: str = ""
    description: str = ""
    limit: float | None = None
    mean: float | None = None
    from_tracks: tuple[str, ...] = ()
    flank_bp: int = 500
    transform: Transform = Transform.NONE
    from_strand: bool = False

    def __post_init__(self) -> None:
        if self.flank_bp < 1:
            raise ConfigError(f"feature '{self.name}': flank_bp must be at least 1, found {self.flank_bp}.")


@dataclass(frozen=True)
class InputSpec:
    """What a model reads, in its order: stored beside its weights, and a row of the table of cell types.

    Attributes
    ----------
    tracks, features : tuple of TrackSpec, tuple of FeatureSpec
        In the model's order.
    cell_type, assembly : str
        E.g. "K562" and "hg38"; the assembly is recorded, chromosome lengths are what is checked.
    window_bp, promoter_bp : int
        As in `NetworkConfig`.
    label : str
        What "expression" means for this model, with its unit.
    """

    cell_type: str
    tracks: tuple[TrackSpec, ...]
    features: tuple[FeatureSpec, ...]
    assembly: str = "hg38"
    window_bp: int = 200_000
    promoter_bp: int = 2_000
    label: str = "log10(CAGE + 1), CAGE reads summed over the 384 bp round the TSS"

    def __post_init__(self) -> None:
        for what, rows in (("track", self.tracks), ("feature", self.features)):
            names = [row.name for row in rows]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ConfigError(f"the {what} '{twice[0]}' is listed twice.")
        for feature in self.features:
            unknown = set(feature.from_tracks) - set(self.track_names)
            if unknown:
                raise ConfigError(f"feature '{feature.name}' needs the track '{min(unknown)}', which is not listed.")
        for track in self.tracks:
            self._check_stand_in(track)

    def _check_stand_in(self, track: TrackSpec) -> None:
        if not track.stand_in:
            return
        other = next((one for one in self.tracks if one.name == track.stand_in), None)
        if other is None or other.stand_in:
            found = "has a stand-in itself" if other else "is not listed"
            raise ConfigError(f"track '{track.name}': its stand-in '{track.stand_in}' {found}.")
        if (other.kind, other.transform) != (track.kind, track.transform):
            raise ConfigError(f"track '{track.name}': its stand-in '{other.name}' has another kind or transform.")

    @property
    def track_names(self) -> tuple[str, ...]:
        """Names of the tracks in the model's order."""
        return tuple(track.name for track in self.tracks)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features in the model's order."""
        return tuple(feature.name for feature in self.features)


@dataclass(frozen=True)
class Provenance:
    """Where weights come from; printed in the card and in the header of every result."""

    status: str = "converted"  # "provisional", "trained" or "converted"
    trained_on: str = ""
    source: str = ""
    source_sha256: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    licence: str = "MIT"
