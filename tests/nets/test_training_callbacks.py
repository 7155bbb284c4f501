"""Training that is interrupted goes on in the same bits; clipping, averages, and checkpoints of somebody else."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cfexplain.nets.training import train_network
from cfexplain.nets.training_callbacks import ClipGradients, Schedule


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


class Interrupted(Exception):
    pass


class Recorder:
    """A loss with noise of its own; records the weights that it saw, and fails at the call it is told to."""

    def __init__(self, stop_at=None, nan_at=None):
        self.calls, self.stop_at, self.nan_at = 0, stop_at, nan_at
        self.training, self.validation = [], []

    def __call__(self, module, rows, progress):
        weights = torch.cat([p.detach().flatten() for p in module.parameters()]).numpy().copy()
        (self.training if module.training else self.validation).append(weights)
        if module.training:
            self.calls += 1
            if self.calls == self.stop_at:
                raise Interrupted
        x = rows["x"] + 0.1 * torch.randn_like(rows["x"])
        loss = (module(x)[:, 0] - rows["y"]).square()
        return loss * float("nan") if module.training and self.calls == self.nan_at else loss


def train(loss, **options):
    """Two layers on 60 rows: 54 to train, 6 batches an epoch, 5 epochs; returns weights and losses."""
    rng = np.random.default_rng(0)
    rows = {"x": torch.from_numpy(rng.normal(size=(60, 2))).float(), "y": torch.from_numpy(rng.normal(size=60)).float()}
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
    history = train_network(net, loss, rows, **{"updates": 30, "seed": 3, "batch_size": 9, "lr": 0.05, **options})
    weights = torch.cat([p.flatten() for p in net.parameters()]).numpy()
    return weights, [(row["epoch"], row["train_loss"], row.get("valid_loss")) for row in history]


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"ema": 0.9, "validation_fraction": 0.0},
                                     {"ema": 0.5, "patience": 12, "lr": 1.0, "updates": 60}], ids=str)
def test_an_interrupted_training_ends_in_the_same_bits(tmp_path, options):
    path = tmp_path / "training.ckpt"
    wanted, losses = train(Recorder(), **options)
    with pytest.raises(Interrupted):
        train(Recorder(stop_at=15), checkpoint=path, **options)  # in the third epoch
    assert path.exists()
    rest = Recorder()
    weights, again = train(rest, checkpoint=path, **options)
    np.testing.assert_array_equal(weights, wanted)
    assert again == losses and not path.exists()
    assert rest.calls == (7 if "validation_fraction" in options else 6) * (len(losses) - 2)
    assert len(losses) == 5  # of 10, where its patience ends it
    assert list(tmp_path.iterdir()) == []


def test_a_batch_without_a_finite_gradient_is_left_out_and_remembered(tmp_path):
    loss = Recorder(nan_at=4)
    _, losses = train(loss, updates=30)
    np.testing.assert_array_equal(loss.training[4], loss.training[3])
    assert not np.array_equal(loss.training[5], loss.training[4]) and np.isfinite(loss.training[-1]).all()
    assert np.isnan(losses[0][1]) and np.isfinite(losses[1][1])
    with pytest.raises(Interrupted):
        train(Recorder(nan_at=4, stop_at=15), checkpoint=tmp_path / "a", validation_fraction=0.0)
    assert len(train(Recorder(), checkpoint=tmp_path / "a", validation_fraction=0.0)[1]) == 5


def test_gradients_are_clipped_to_the_limit():
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    ClipGradients(2.6).on_grad_computed(None, iter(enumerate(weights)))
    np.testing.assert_allclose(torch.cat([w.grad for w in weights[:2]]), [0.6, 0.8, 2.4], rtol=1e-5)
    weights[1].grad[0] = float("inf")
    ClipGradients(2.6).on_grad_computed(None, iter(enumerate(weights)))
    assert all(w.grad is None for w in weights)


def test_the_average_is_the_recursion_of_the_weights(decay=0.9):
    loss = Recorder()
    weights, losses = train(loss, ema=decay)
    per_epoch, epochs = 6, 5
    assert len(loss.training) == per_epoch * epochs and len(loss.validation) == epochs
    slow, averages = loss.training[0].astype(float), []
    for k, fast in enumerate(loss.training[1:], start=1):  # the weights after k updates
        share = min(decay, k / (k + 50))
        slow = share * slow + (1 - share) * fast
        if k % per_epoch == 0:
            averages.append(slow)
    for seen, average in zip(loss.validation, averages, strict=False):
        np.testing.assert_allclose(seen, average, rtol=1e-4, atol=1e-6)
    best = int(np.argmin([valid for _, _, valid in losses]))
    np.testing.assert_array_equal(weights, loss.validation[best])


@pytest.mark.parametrize("content", ["empty", "text", "truncated", "list", "tensor", "network", "seed", "no average"])
def test_a_foreign_checkpoint_is_refused_and_kept(tmp_path, content):
    path, options = tmp_path / "training.ckpt", {}
    with pytest.raises(Interrupted):
        train(Recorder(stop_at=15), checkpoint=path)
    if content == "empty":
        path.write_bytes(b"")
    elif content == "text":
        path.write_text("not a checkpoint\n")
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content in ("list", "tensor", "network"):
        state = torch.load(path)
        state["module"] = {"weight": torch.zeros(3)}
        torch.save({"list": [1, 2], "tensor": torch.zeros(2), "network": state}[content], path)
    else:
        options = {"seed": {"seed": 4}, "no average": {"ema": 0.9}}[content]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"training.ckpt is not of this training: .+ Remove it, or pass another"):
        train(Recorder(), checkpoint=path, **options)
    assert path.read_bytes() == before


class Net:
    """What a schedule sees of a training: rates it sets, and losses that it reads."""

    def __init__(self, losses):
        self.optimizer_, self.losses, self.module_ = SimpleNamespace(param_groups=[{"lr": None}]), losses, SimpleNamespace()

    def run(self, schedule, per_epoch):
        schedule.on_train_begin(self)
        rates = []
        for loss in self.losses:
            for _ in range(per_epoch):
                schedule.on_batch_begin(self, training=True)
                rates.append(self.optimizer_.param_groups[0]["lr"])
                schedule.on_batch_end(self, training=True)
            self.history = {(-1, "loss"): loss}
            try:
                schedule.on_epoch_end(self)
            except KeyboardInterrupt:
                break
        return np.array(rates)


def test_the_learning_rate_rises_stays_and_falls():
    rates = Net(-np.arange(1000.0)).run(Schedule(1.0, 4000, "loss", patience=500), per_epoch=10)
    assert len(rates) == 4000
    np.testing.assert_allclose(rates[:3], [1 / 200, 2 / 200, 3 / 200])
    np.testing.assert_allclose(rates[200:2400], 1.0)
    np.testing.assert_allclose(rates[3200], 0.5)
    assert rates[-1] == 0.02 and (np.diff(rates[2400:]) <= 0).all()


def test_training_ends_soon_after_the_loss_has_stopped_falling():
    losses = np.r_[-np.arange(60.0), np.full(940, -59.0)]  # falls for 600 updates
    rates = Net(losses).run(Schedule(1.0, 4000, "loss", patience=300), per_epoch=10)
    assert len(rates) == 1500  # 600, 300 of patience, and two thirds of them
    np.testing.assert_allclose(rates[200:900], 1.0)
    np.testing.assert_allclose(rates[1200], 0.5)
