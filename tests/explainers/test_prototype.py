"""Prototypes against their own formula."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("quietly")


def point_of(explainer, x, target):
    """The start of a search, in float64 arithmetic's reach: the point and its rows."""
    from cfexplain.explainers.run import Run

    run, x = Run(explainer), explainer.read_samples(x)
    rows, start = run.prepare(x, explainer.goal(x, target))
    return run, run.judge.point(start, rows), rows


def test_prototype_objective_is_its_formula(prototype_table_explainer, table):
    explainer, x = prototype_table_explainer, table[2][table[3] == "malignant"][:4]
    run, point, rows = point_of(explainer, x, "benign")
    moved = run.judge.point(rows["z0"] + 0.1, rows)
    with torch.no_grad():
        loss = run.objective.evaluate(moved).loss.double().numpy()
    other = x.astype(float) + 0.1
    codes = explainer.autoencoder_.transform(other.astype(np.float32)).astype(float)
    back = explainer.autoencoder_.inverse_transform(codes.astype(np.float32)).astype(float)
    members, own = explainer.prototype_codes_[0], explainer.autoencoder_.transform(x)
    prototypes = np.stack([members[np.argsort(np.linalg.norm(members - code, axis=1))[:5]].mean(0) for code in own])
    with torch.no_grad():  # a probability may be 0 in float32
        logits = explainer.classifier_.module(torch.from_numpy(other.astype(np.float32))).double().numpy()
    hinge = np.maximum(np.log(0.55 / 0.45) + 0.02 - (logits[:, 0] - logits[:, 1]), 0)
    expected = (10 * hinge + 0.1 * np.abs(other - x).sum(1) + ((other - x) ** 2).sum(1) + ((other - back) ** 2).sum(1)
                + ((codes - prototypes) ** 2).sum(1))
    np.testing.assert_allclose(loss, expected, rtol=2e-3)
