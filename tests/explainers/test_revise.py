"""REVISE against its own formula."""

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator

from cfexplain import (
    REVISEExplainer,
)

pytestmark = pytest.mark.usefixtures("quietly")


def point_of(explainer, x, target):
    """The start of a search, in float64 arithmetic's reach: the point and its rows."""
    from cfexplain.explainers.run import Run

    run, x = Run(explainer), explainer.read_samples(x)
    rows, start = run.prepare(x, explainer.goal(x, target))
    return run, run.judge.point(start, rows), rows


def test_revise_objective_is_cross_entropy_and_l1_in_x(revise_image_explainer, digits):
    x = digits[2][digits[3] == 4][:5]
    run, point, rows = point_of(revise_image_explainer, x, 9)
    with torch.no_grad():
        loss = run.objective.evaluate(point).loss.double().numpy()
    proba = revise_image_explainer.predict_proba(point.x.detach().numpy()[:, 0]).astype(float)[:, 9]
    l1 = np.abs(point.x.detach().numpy().astype(float)[:, 0] - x).reshape(5, -1).sum(1)
    np.testing.assert_allclose(loss, -np.log(proba) + 0.05 * l1, rtol=1e-3)


def test_revise_carla_keeps_the_least_objective_among_valid_points(revise_image_explainer, digits):
    x = digits[2][digits[3] == 4][:6]
    fitted = {"coordinates": FrozenEstimator(revise_image_explainer.coordinates_),
              "density": FrozenEstimator(revise_image_explainer.density_)}
    carla = REVISEExplainer.preset("carla", classifier=revise_image_explainer.classifier_.module, max_steps=60,
                                   patience=60, random_state=0, **fitted).fit(*digits[:2])
    cf = carla.explain(x, 9, record_path=True)
    run, _, rows = point_of(carla, x, 9)
    for i in np.flatnonzero(cf.valid):
        assert len(cf.path[i]) == 61
        some = {name: values[i : i + 1].expand(61, *values.shape[1:]) for name, values in rows.items()}
        with torch.no_grad():
            found = run.judge.evaluate(torch.from_numpy(cf.path[i]), some)
        best = torch.where(found.valid, found.loss, torch.inf).argmin()
        np.testing.assert_allclose(cf.z_cf[i], cf.path[i][best], atol=1e-6)
