"""How the generator of a GAN is trained against its discriminator."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from skorch import NeuralNet
from skorch.callbacks import PassthroughScoring
from torch import Tensor, nn

from cfexplain.foundation.progress import bar_delay, no_rehearsal
from cfexplain.foundation.random import seeded_torch
from cfexplain.nets.gan import Discriminator, GANNet, refresh_statistics
from cfexplain.nets.training_callbacks import Bar

__all__ = ["train_adversaries"]

# Two time scales (Heusel et al., 2017): with equal rates, or with momentum, digits need several times the updates.
CRITIC_LR = 3.0


def train_adversaries(net: GANNet, critic: Discriminator, u: Tensor, *, updates: int, lr: float, batch_size: int,
                       seed: int, device: str, verbose: int | str) -> list[dict[str, Any]]:
    """Train `net`'s generator against `critic` on images `u` in [0, 1]; the generator gets its averaged weights."""
    no_rehearsal("training against a critic")
    batch_size = min(batch_size, len(u))
    per_epoch = len(u) // batch_size
    epochs = math.ceil(updates / per_epoch)
    delay = bar_delay(verbose)
    names = ("generator_loss", "discriminator_loss")
    with seeded_torch(seed):
        trainer = _Adversaries(
            module=_Pair(net, critic).to(device=device, memory_format=torch.channels_last),  # type: ignore[call-overload]
            criterion=nn.Identity,
            optimizer=torch.optim.Adam, lr=lr, optimizer__betas=(0.0, 0.99), max_epochs=epochs, batch_size=batch_size,
            iterator_train__shuffle=True, iterator_train__drop_last=True, train_split=None, verbose=0, device=device,
            callbacks=[(name, PassthroughScoring(name, on_train=True)) for name in names]
            + ([] if delay is None else [("bar", Bar("GAN", epochs * per_epoch, delay))]),
            total=epochs * per_epoch)
        # Not trainer.fit: it would take a person's Ctrl-C for the end of training.
        trainer.initialize()
        trainer.notify("on_train_begin", X=u, y=None)
        trainer.fit_loop(u, None)
        trainer.notify("on_train_end", X=u, y=None)
        net.decoder = trainer.average_
        refresh_statistics(net.decoder, list(torch.randn(20, 200, net.latent_dim, device=device)))
    net.eval().requires_grad_(False)
    history = [{k: v for k, v in row.items() if k != "batches"} for row in trainer.history]
    if not all(torch.isfinite(p).all() for p in net.decoder.parameters()):
        raise FloatingPointError("Training the GAN ended in weights that are not finite. Try a smaller lr=.")
    return history


class _Pair(nn.Module):
    def __init__(self, net: GANNet, critic: Discriminator):
        super().__init__()
        self.net, self.critic = net, critic


class _Adversaries(NeuralNet):
    """Each step: one update of the discriminator, one of the generator (hinge losses), one of the average."""

    def __init__(self, *args: Any, total: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.total = total

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> _Adversaries:
        pair = self.module_
        _, settings = self.get_params_for_optimizer("optimizer", pair.named_parameters())
        self.optimizer_ = self.optimizer(pair.net.decoder.parameters(), **settings)
        self.optimizer_critic_ = self.optimizer(pair.critic.parameters(), **settings)
        self.average_ = copy.deepcopy(pair.net.decoder).requires_grad_(False)
        self.done_ = 0
        return self

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        net, critic = self.module_.net, self.module_.critic
        real = batch[0].to(self.device)
        self._set_training(True)
        lr = self.lr * min(1.0, 2 * (1 - self.done_ / self.total))
        self.optimizer_.param_groups[0]["lr"] = lr
        self.optimizer_critic_.param_groups[0]["lr"] = CRITIC_LR * lr
        with torch.no_grad():
            fake = self._drawn(len(real))
        on_real, on_fake = critic(torch.cat([real, fake])).chunk(2)
        critic_loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        self._step(self.optimizer_critic_, critic_loss)
        critic.requires_grad_(False)
        loss = -critic(self._drawn(len(real))).mean()
        self._step(self.optimizer_, loss)
        critic.requires_grad_(True)
        self.done_ += 1
        # remembers a tenth of the updates so far, at most 200
        share = 1 / min(200.0, 1 + self.done_ / 10)
        with torch.no_grad():
            for mean, now in zip(self.average_.parameters(), net.decoder.parameters(), strict=True):
                mean.lerp_(now, share)
        self.history.record_batch("generator_loss", loss.item())
        self.history.record_batch("discriminator_loss", critic_loss.item())
        return {"loss": loss.detach(), "y_pred": on_fake.detach()}

    def _drawn(self, count: int) -> Tensor:
        net = self.module_.net
        return net.outputs(torch.randn(count, net.latent_dim, device=self.device)).sigmoid()

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
