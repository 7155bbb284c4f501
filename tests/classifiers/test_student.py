"""The student says what its teacher says, without kinks, and leaves the teacher alone."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cfexplain.classifiers import smooth_student
from cfexplain.classifiers.student import LeakySoftplus
from cfexplain.foundation.random import seeded_torch


@pytest.fixture(scope="module")
def teacher():
    with seeded_torch(0):
        return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Sequential(
            nn.Conv2d(6, 6, 3, 2), nn.ReLU6()), nn.Flatten(), nn.Linear(24, 3)).train()


def test_the_student_agrees_and_the_teacher_is_left_alone(teacher, digits):
    X, before = digits[0][:400, None], {k: v.clone() for k, v in teacher.state_dict().items()}
    student = smooth_student(teacher, X, training_budget=0.3)
    assert teacher.training and all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters()) and not student.training
    assert not any(isinstance(part, (nn.ReLU, nn.ReLU6)) for part in student.modules())
    test = torch.from_numpy(digits[2][:, None])
    teacher.eval()
    with torch.no_grad():
        wanted, found = teacher(test).softmax(1), student(test).softmax(1)
    teacher.train()
    assert (wanted.argmax(1) == found.argmax(1)).float().mean() > 0.9
    assert (wanted - found).abs().mean() < 0.05
    again = smooth_student(teacher, X, training_budget=0.3)
    assert all(torch.equal(a, b) for a, b in zip(student.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_leaky_softplus_is_smooth_and_never_flat():
    x = torch.linspace(-3, 3, 1201, dtype=torch.float64, requires_grad=True)
    smooth = LeakySoftplus()
    (slope,) = torch.autograd.grad(smooth(x).sum(), x)
    assert slope.min() >= 0.01 and slope.diff().abs().max() < 0.02
    np.testing.assert_allclose(smooth(x).detach(), F.leaky_relu(x, 0.01).detach(), atol=0.14)


def test_what_cannot_be_smoothed_is_said(digits):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 2)

        def forward(self, x):
            return F.relu(self.layer(x.flatten(1)))

    with pytest.raises(ValueError, match="Functional has no ReLU"):
        smooth_student(Functional(), digits[0][:50])
    with pytest.raises(ValueError, match=r"expected logits \(n, K\)"):
        smooth_student(nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(64, 1)), digits[0][:50])
    with pytest.raises(ValueError, match="training_budget"):
        smooth_student(nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(64, 2)), digits[0][:50], training_budget=0)
