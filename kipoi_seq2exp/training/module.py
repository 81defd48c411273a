"""The LightningModule: one training step, one validation, the optimiser and its schedule.

Contract: the noise of a step (samples of the mask) is seeded by (seed, step, process), so that a resumed run repeats
the uninterrupted one to the bit on a CPU. Everything logged is named as in metrics.csv.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from kipoi_seq2exp.config import MaskMode, Provenance, Variant
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.nn.bottleneck import annotate_tokens, apply_annotations
from kipoi_seq2exp.nn.losses import seq2exp_loss
from kipoi_seq2exp.nn.mamba import MambaStack
from kipoi_seq2exp.nn.network import Seq2Exp, Seq2ExpOutput
from kipoi_seq2exp.nn.tokens import Tokens
from kipoi_seq2exp.settings import to_mapping
from kipoi_seq2exp.training.config import TrainingConfig
from kipoi_seq2exp.training.sections import Learns, OptimiserConfig
from kipoi_seq2exp.zoo.models import load_model

HEAD = "expression_head."  # names of the parameters that `optimiser.learns: head` trains


class TrainingModule(pl.LightningModule):
    """Seq2Exp in training.

    Parameters
    ----------
    config : TrainingConfig
        The run.
    network : Seq2Exp, optional
        Initial network; by default random weights drawn from the config's seed.
    teacher : Seq2Exp, optional
        Trained network whose mask this one is given instead of peaks (variant "peaks"); it does not learn.
    """

    def __init__(self, config: TrainingConfig, network: Seq2Exp | None = None, teacher: Seq2Exp | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config) if network is None else network
        self._teacher = [] if teacher is None else [teacher.eval()]  # in a list: its weights are not this module's
        for stack in self.network.modules():
            if isinstance(stack, MambaStack):
                stack.checkpoint_layers = config.run.checkpoint_activations
        self._judged: list[tuple[Tensor, Tensor]] = []
        self.head_alone = config.optimiser.learns is Learns.HEAD
        if self.head_alone:
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(name.startswith(HEAD))

    def forward(self, batch: dict[str, Any], sample: Tensor | None = None) -> Seq2ExpOutput:
        """Run the network on a batch of `LabelledWindows`, of bases or of tokens."""
        if "tracks" in batch:
            return run_tokens(self.network, batch, self.config.window_bp)
        mask = self.given_mask(batch)
        blacklist = batch["blacklist"] if mask is None else None
        output: Seq2ExpOutput = self.network(
            batch["onehot"], batch["signals"], batch["features"], blacklist=blacklist, mask=mask, sample=sample
        )
        return output

    def given_mask(self, batch: dict[str, Any]) -> Tensor | None:
        """Return the mask given from outside, (B, L), with promoter and blacklist applied; None without one."""
        if self._teacher:
            teacher = self._teacher[0].to(batch["onehot"].device)
            with torch.no_grad():
                mask: Tensor | None = teacher(
                    batch["onehot"], batch["signals"], batch["features"], blacklist=batch["blacklist"]
                ).mask
            return mask
        if "peaks" not in batch or self.config.network.variant is not Variant.PEAKS:
            return None
        peaks = batch["peaks"].float()
        return apply_annotations(peaks, batch["blacklist"], self.network.promoter(peaks.shape[1]))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch; stop with the genes' names when it is not a number."""
        torch.manual_seed(_noise_seed(self.config.seed, self.global_step, batch_idx, self.global_rank))
        optimiser = self.config.optimiser
        self.network.train(not self.head_alone)  # a mask that is not learned is read as in predictions
        losses = seq2exp_loss(self(batch), batch["label"], optimiser.kl_weight, optimiser.error)
        if not self.all_finite(losses.total):
            raise InputError(
                f"the loss is {float(losses.total.detach())} at step {self.global_step}, on the genes "
                f"{', '.join(batch['gene_id'])}: check their labels and tracks, or lower optimiser.peak_lr."
            )
        size = len(batch["gene_id"])
        self.log(
            "train_loss", losses.total, on_step=False, on_epoch=True, batch_size=size, sync_dist=True, prog_bar=True
        )
        self.log("train_prediction", losses.prediction, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        if losses.kl is not None:
            self.log("train_kl", losses.kl, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return losses.total

    def all_finite(self, loss: Tensor) -> bool:
        """Tell whether the loss is finite in every process, so that all stop together."""
        finite = bool(torch.isfinite(loss.detach()))
        together: bool = self.trainer.strategy.reduce_boolean_decision(finite, all=True)
        return together

    def on_validation_epoch_start(self) -> None:
        """Forget the predictions of the last validation."""
        self._judged = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Predict one batch of validation genes."""
        self._judged.append((self(batch).expression.float().cpu(), batch["label"].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log the errors over all validation genes."""
        predicted, observed = (torch.cat(list(part)) for part in zip(*self._judged, strict=True))
        errors = predicted - observed
        self.log("validation_mse", errors.square().mean(), prog_bar=True)
        self.log("validation_mae", errors.abs().mean())
        self.log("validation_pearson", _pearson(predicted, observed), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW over the parameters that learn; the rate changes with every step."""
        settings = self.config.optimiser
        learned = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        optimiser = AdamW(learned, lr=settings.peak_lr, betas=settings.betas, weight_decay=settings.weight_decay)
        schedule = LambdaLR(optimiser, lambda step: learning_rate(step, settings) / settings.peak_lr)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the run's settings beside the weights: resuming checks them."""
        checkpoint["seq2exp_config"] = to_mapping(self.config)


def run_tokens(network: Seq2Exp, batch: dict[str, Any], window_bp: int) -> Seq2ExpOutput:
    """Run a network on a batch of windows of that length as tokens (`training.data.tokenise`)."""
    peaks, kept, onehot = batch.get("peaks"), batch["kept"], batch["onehot"].float()
    grid = network.grid(window_bp)
    if network.config.variant is not Variant.PEAKS:
        peaks = None
    elif peaks is not None:
        peaks = annotate_tokens(peaks, kept, grid.promoter)
    unknown = int(batch["rows"].max()) == len(onehot)
    tokens = Tokens(onehot, unknown, batch["rows"], batch["tracks"], batch["features"], kept, peaks)
    return network.forward_tokens(tokens, window_bp)


def build_network(config: TrainingConfig) -> Seq2Exp:
    """Build a network with random weights that follow from the seed alone; the caller's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Seq2Exp(config.network, config.inputs, Provenance(status="trained", seed=config.seed))


def open_teacher(config: TrainingConfig) -> Seq2Exp | None:
    """Load the trained network whose mask, its top fraction, is given to this run (`mask_from`)."""
    if config.mask_from is None:
        return None
    teacher = load_model(config.mask_from, "cpu")
    if not teacher.config.generates_mask:
        raise ConfigError(f"mask_from: the weights '{config.mask_from}' make no mask of their own.")
    top = config.network.top_fraction
    teacher.config = dataclasses.replace(teacher.config, mask_mode=MaskMode.TOP, top_fraction=top)
    return teacher


def learning_rate(step: int, settings: OptimiserConfig) -> float:
    """Return the rate of a step: linear from start to peak, then a cosine to the end."""
    if step < settings.warmup_steps:
        return settings.start_lr + (settings.peak_lr - settings.start_lr) * step / settings.warmup_steps
    left = max(1, settings.max_steps - settings.warmup_steps)
    done = min(1.0, (step - settings.warmup_steps) / left)
    return settings.end_lr + (settings.peak_lr - settings.end_lr) * (1 + math.cos(math.pi * done)) / 2


def start_from_regression(
    network: Seq2Exp, features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], ridge: float
) -> None:
    """Make the expression head predict the ridge regression of the labels on the features, exactly, at the start.

    One unit of each hidden layer carries the prediction, raised by a constant that keeps it above zero (a ReLU is then
    the identity); the rest of the head is random but starts without effect, so that it learns the residuals of the
    regression.

    Parameters
    ----------
    network : Seq2Exp
        Changed in place.
    features : array, (n, F)
        Features of the training genes.
    labels : array, (n,)
        Their labels.
    ridge : float
        Penalty on the weights of the standardised features.
    """
    weights, bias = ridge_regression(features, labels, ridge)
    first, second, last = (m for m in network.expression_head if isinstance(m, nn.Linear))
    offset = float(10 * (np.abs(labels).max() + 1))
    with torch.no_grad():
        first.weight[0] = 0
        first.weight[0, -network.config.n_features :] = torch.from_numpy(weights.astype(np.float32))
        first.bias[0] = bias + offset
        second.weight[0] = 0
        second.weight[0, 0] = 1
        second.bias[0] = 0
        last.weight.zero_()
        last.weight[0, 0] = 1
        last.bias.fill_(-offset)


def ridge_regression(features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], ridge: float) -> tuple[Any, float]:
    """Fit labels = features @ weights + bias; the penalty is on weights of features in units of their deviation."""
    x, y = features.astype(np.float64), labels.astype(np.float64)
    mean, deviation = x.mean(0), x.std(0)
    scale = np.where(deviation > 0, deviation, 1)
    standard = (x - mean) / scale
    gram = standard.T @ standard + ridge * np.eye(x.shape[1])
    weights = np.linalg.lstsq(gram, standard.T @ (y - y.mean()), rcond=None)[0] / scale
    return weights, float(y.mean() - mean @ weights)


def _noise_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(), b - b.mean()
    scale = a.norm() * b.norm()
    return (a * b).sum() / scale if scale > 0 else torch.zeros(())
