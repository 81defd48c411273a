"""Kipoi's door to the network: the arrays that `model.yaml` describes. The arithmetic is in kipoi_seq2exp.nn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from kipoi.model import BaseModel, GradientMixin, LayerActivationMixin

from kipoi_seq2exp import load_model
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.zoo import fixes, served
from kipoi_seq2exp.zoo.array_model import ArrayModel

fixes.install()


class Seq2ExpModel(BaseModel, GradientMixin, LayerActivationMixin):
    """A served network; the arguments are those of `model.yaml`, paths relative to the group's folder."""

    MODEL_PACKAGE = "pytorch"

    def __init__(self, weights: str, weights_sha256: str, outputs: list[str]) -> None:
        self._group = Path.cwd()  # Kipoi builds models inside their folder
        self.network = load_model(self._group / weights, sha256=weights_sha256)
        self.arrays = ArrayModel(self.network, outputs)
        served.announce(weights, self.network.provenance.status)
        fixes.note(weights=weights, weights_sha256=weights_sha256, outputs=outputs)

    def predict_on_batch(self, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return `expression` (B, 1), in the weights' unit, and `element_mask` (B, 200000), 0 to 1, if asked for."""
        return self.arrays.predict(x)

    def input_grad(
        self,
        x: dict[str, np.ndarray],
        filter_idx: Any = None,
        avg_func: str | None = None,
        layer: str | None = None,
        final_layer: bool = True,
        selected_fwd_node: None = None,
        pre_nonlinearity: bool = False,
    ) -> dict[str, np.ndarray]:
        """Return the gradient of the expression, or of a named layer, with respect to each input."""
        if selected_fwd_node is not None or pre_nonlinearity:
            raise ConfigError("input_grad: selected_fwd_node and pre_nonlinearity are not available for this model.")
        return self.arrays.gradient(x, layer, filter_idx, avg_func)

    def predict_activation_on_batch(
        self, x: dict[str, np.ndarray], layer: str, pre_nonlinearity: bool = False
    ) -> np.ndarray:
        """Return what a layer puts out: a module by its dotted name, or z, posterior, prior, mask_logits."""
        if pre_nonlinearity:
            raise ConfigError("predict_activation_on_batch: pre_nonlinearity is not available for this model.")
        return self.arrays.activation(x, layer)

    @property
    def test(self) -> Any:
        """Kipoi's test settings; the expected predictions are found from any working directory."""
        return self._test

    @test.setter
    def test(self, settings: Any) -> None:
        if isinstance(settings.expect, str):
            settings.expect = str(self._group / settings.expect)
        self._test = settings
