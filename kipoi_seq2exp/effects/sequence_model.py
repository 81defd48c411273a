"""One gene's network as other packages expect a model: DNA (B, 4, L) in, expression (B, 1) out.

tangermeme (`predict`, `saturation_mutagenesis`, `marginalize`, `ablate`; name the network's device) and captum's
gradient methods work on it. DeepLIFT (`deep_lift_shap`) runs, but it has no rule for a state space model: its parts do
not add up, and tangermeme says by how much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.effects.track_features import FeatureRules
from kipoi_seq2exp.errors import ShapeError

if TYPE_CHECKING:
    from kipoi_seq2exp.nn.network import Seq2Exp


class SequenceModel(nn.Module):
    """The expression of one gene as a function of the DNA of its window.

    Parameters
    ----------
    network : Seq2Exp
        In eval mode.
    window : WindowInputs
        The window that gives tracks, features and blacklist, which stay as they are.
    rules : FeatureRules, optional
        Rules of the window's data set: features that are computed from tracks then follow `signals`.
    """

    def __init__(self, network: Seq2Exp, window: WindowInputs, rules: FeatureRules | None = None) -> None:
        super().__init__()
        self.network, self.rules = network, rules
        for name in ("signals", "features", "blacklist"):
            self.register_buffer(f"window_{name}", torch.from_numpy(getattr(window, name))[None], persistent=False)
        self.train(network.training)  # tangermeme puts every part back into the mode of the whole

    def forward(self, onehot: Tensor, signals: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """Predict.

        Parameters
        ----------
        onehot : Tensor, (B, 4, L)
            DNA in A C G T order.
        signals : Tensor, (B, L, S), optional
            Tracks as the network reads them, in place of the window's.
        features : Tensor, (B, F), optional
            In place of the window's.

        Returns
        -------
        Tensor, (B, 1)
            Expression.

        Raises
        ------
        ShapeError
            If the DNA is not (B, 4, L) with the window's length.
        """
        length = self.get_buffer("window_signals").shape[1]
        if onehot.ndim != 3 or tuple(onehot.shape[1:]) != (4, length):
            raise ShapeError(f"DNA must have shape (B, 4, {length}), found {tuple(onehot.shape)}.")
        size = len(onehot)

        def given(name: str, values: Tensor | None) -> Tensor:
            kept = self.get_buffer(f"window_{name}")
            return kept.expand(size, *kept.shape[1:]) if values is None else values

        tracks, numbers = given("signals", signals), given("features", features)
        if self.rules is not None and features is None:
            numbers = self.rules.compute(numbers, tracks)
        blacklist = given("blacklist", None)
        expression: Tensor = self.network(onehot.transpose(1, 2), tracks, numbers, blacklist=blacklist).expression
        return expression[:, None]
