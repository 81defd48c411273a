"""kipoi-interpret on our model: what of it still works (its gradients). It must be installed beside Kipoi by hand."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from kipoi_door import example_arguments, make_group, make_home, python

from kipoi_seq2exp.zoo import served
from kipoi_seq2exp.zoo.array_model import ArrayModel
from kipoi_seq2exp.zoo.models import load_model

if importlib.util.find_spec("kipoi_interpret") is None:
    pytest.skip("kipoi_interpret is not installed: pip install --no-deps kipoi_interpret", allow_module_level=True)

SCORE = """
import json
import kipoi
import numpy as np
from kipoi_interpret.importance_scores import feature_importance

model = kipoi.get_model("Seq2Exp/K562", source="dir")
files = json.loads({arguments!r})
found = feature_importance(model, model.default_dataloader(**files), "grad", batch_size=1)
np.savez({target!r}, gene_id=found["metadata"]["gene_id"], **found["importance_scores"])
"""


def test_its_gradients_are_those_of_the_network(tmp_path):
    group, home = make_group(tmp_path), make_home(tmp_path / "home")
    arguments = json.dumps(example_arguments(group))
    code = SCORE.format(arguments=arguments, target=str(tmp_path / "found.npz"))
    done = python(code, cwd=tmp_path, home=home)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        scores = dict(found)
    inputs = served.example_inputs("K562", group)
    wanted = ArrayModel(load_model(group / "weights" / "K562.safetensors", "cpu")).gradient(inputs)
    for name in ("onehot", "signals", "features"):
        np.testing.assert_allclose(scores[name], wanted[name], atol=1e-6 * np.abs(wanted[name]).max())
        assert np.abs(wanted[name]).max() > 0
