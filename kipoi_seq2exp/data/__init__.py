"""Everything that reads the genome: files to windows of numbers. It knows nothing of the network."""

from kipoi_seq2exp.data.cells import read_cells
from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs
from kipoi_seq2exp.data.features import FeatureTable, resolve_features
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.tracks.contact_sources import open_contacts
from kipoi_seq2exp.data.tracks.signals import open_signal
from kipoi_seq2exp.data.tracks.track import SignalTrack
from kipoi_seq2exp.data.windows import Window

__all__ = [
    "FeatureTable",
    "Genome",
    "Regions",
    "SignalTrack",
    "Window",
    "WindowDataset",
    "WindowInputs",
    "open_contacts",
    "open_signal",
    "read_cells",
    "read_genes",
    "resolve_features",
]
