"""A linear classifier, for which every attribution is known in closed form."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

from cfexplain import GradientExplainer


@pytest.fixture(scope="session")
def linear_explainer():
    data = load_breast_cancer()
    X = StandardScaler().fit_transform(data.data)[:, :6]
    y = np.array(["malignant", "benign"])[data.target]
    torch.manual_seed(0)
    net = torch.nn.Linear(6, 2).double()
    return GradientExplainer(net, max_steps=60, random_state=0, training_budget=0.05).fit(X, y), X, net
