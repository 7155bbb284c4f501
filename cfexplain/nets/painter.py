"""A network that paints what belongs where a picture has changed, from what surrounds it; and how it is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfexplain.foundation.precision import faster_in_bfloat16
from cfexplain.foundation.progress import bar_delay, new_bar, no_rehearsal
from cfexplain.foundation.random import seeded_torch
from cfexplain.nets.critics import PatchCritic
from cfexplain.nets.latent_autoencoders import Residual
from cfexplain.persistence import stored_by_sizes

__all__ = ["Painter", "train_painter"]

_GRID = 8  # places a side in the middle of the network, at most
# Of what the painter is told: the error where it paints, the critic's features there, and the critic's opinion
_ERROR, _FEATURES, _OPINION = 1.0, 0.3, 0.05
_AVERAGE = 0.99
_HIDDEN = 1 / 3  # of the mask, above which the original is not shown

# what a batch of training asks of: the picture drawn from a code, the true one, and the mask of a change of it
Batch = Callable[[Tensor, torch.Generator], tuple[Tensor, ...]]


@stored_by_sizes(lambda net: {"channels": net.channels, "width": net.width, "halvings": net.halvings})
class Painter(nn.Module):
    """Picture, mask and original, (B, 2C + 1, H, W) -> what the picture lacks under the mask, (B, C, H, W).

    It is shown the picture that was decoded, and the original only where the mask is nearly 0; it begins by adding nothing.

    Parameters
    ----------
    channels : int
        C, of pictures or of latents.
    width : int
        Channels inside.
    halvings : int
        How often the sides are halved; the deeper, the further it sees.

    Examples
    --------
    >>> import torch
    >>> painter, x = Painter(3, width=8, halvings=1), torch.rand(2, 3, 9, 10)
    >>> painter.paint(x, torch.ones(2, 1, 9, 10), x).shape
    torch.Size([2, 3, 9, 10])
    """

    def __init__(self, channels: int, width: int = 48, halvings: int = 1):
        super().__init__()
        self.channels, self.width, self.halvings = channels, width, halvings
        widths = [width * 2 ** min(i, 1) for i in range(halvings + 1)]
        self.first = nn.Sequential(nn.Conv2d(2 * channels + 1, width, 3, padding=1), Residual(width))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for outer, inner in zip(widths, widths[1:], strict=False):
            self.down.append(nn.Sequential(nn.Conv2d(outer, inner, 3, 2, 1), Residual(inner)))
            self.up.append(nn.Conv2d(inner + outer, outer, 3, padding=1))
        self.middle = Residual(widths[-1])
        self.last = nn.Sequential(Residual(width), nn.GroupNorm(math.gcd(8, width), width), nn.SiLU(),
                                  nn.Conv2d(width, channels, 3, padding=1))
        for part in self.last[-1].parameters():
            nn.init.zeros_(part)

    def paint(self, picture: Tensor, mask: Tensor, original: Tensor) -> Tensor:
        """As `forward`, of the three by themselves."""
        return self(torch.cat([picture, mask, original], 1))

    def forward(self, given: Tensor) -> Tensor:
        picture, mask, original = given.split([self.channels, 1, self.channels], 1)
        # nothing where the mask is above a third: a faint trace, divided by what is left of it, would be the whole again
        h = self.first(torch.cat([picture, F.relu(1 - mask / _HIDDEN) * original, mask], 1))
        seen = []
        for down in self.down:
            seen.append(h)
            h = down(h)
        h = self.middle(h)
        for up, before in zip(reversed(list(self.up)), reversed(seen), strict=True):
            h = up(torch.cat([F.interpolate(h, size=before.shape[2:]), before], 1))
        return self.last(h)

    @staticmethod
    def halvings_for(sides: tuple[int, ...]) -> int:
        """So many that 8 places or fewer are left a side."""
        return max(1, math.ceil(math.log2(max(sides) / _GRID)))


def train_painter(painter: Painter, batch: Batch, n: int, *, updates: int, batch_size: int, seed: int, lr: float = 7e-4,
                  device: str = "cpu", verbose: int | str = 0) -> list[dict[str, float]]:
    """Train `painter` in place against a critic of patches; it keeps the average of its weights.

    Each batch has two halves. In one, part of a real picture is hidden and has to be painted again: the error is known. In
    the other, the picture was changed as a search changes it, and only the critic can say whether it is right.

    Parameters
    ----------
    batch : callable ``(rows, generator) -> (drawn, moved, original, hidden, mask)``
        Of the rows with these numbers: what is drawn from their codes, what is drawn from moved ones, the pictures
        themselves, a mask to hide parts of them under, and the mask of the move.
    n : int
        Rows.

    Returns
    -------
    list of dict
        ``error``, of the painted part as a share of what was there without it, and the losses, every 20 updates.
    """
    no_rehearsal("training against a critic")
    history: list[dict[str, float]] = []
    with seeded_torch(seed):
        critic = PatchCritic(painter.channels + 1, painter.width, (1, 2, 1))
        critic.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        painter.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        painter.train().requires_grad_(True)
        average = copy.deepcopy(painter).requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        own = torch.optim.Adam(painter.parameters(), lr, betas=(0.5, 0.99))
        others = torch.optim.Adam(critic.parameters(), lr, betas=(0.0, 0.99))
        half = faster_in_bfloat16(device)
        delay = bar_delay(verbose)
        steps = new_bar(range(updates), desc="training painter", unit="step", disable=delay is None, delay=delay or 0)
        for step in steps:
            rate = lr * min(1.0, (step + 1) / 50, 3 * (updates - step) / updates)
            for optimizer in (own, others):
                optimizer.param_groups[0]["lr"] = rate
            rows = torch.randint(n, (batch_size,), generator=generator)
            drawn, moved, original, hidden, mask = (part.to(device) for part in batch(rows, generator))
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half, cache_enabled=False):
                again = blended(drawn, drawn, original, hidden, painter.paint(drawn, hidden, original))
                changed = blended(moved, drawn, original, mask, painter.paint(moved, mask, original))
                masks = torch.cat([hidden, mask])
                fake, weight = torch.cat([again, changed]).float(), masks
                # the critic: hinge, where something was painted
                real = torch.cat([original, original])
                opinion, _ = critic(torch.cat([torch.cat([real, masks], 1), torch.cat([fake.detach(), masks], 1)]))
                of_real, of_fake = opinion.float().chunk(2)
                small = F.adaptive_max_pool2d(weight, of_real.shape[2:])
                loss = (small * (F.relu(1 - of_real) + F.relu(1 + of_fake))).sum() / small.sum().clamp_min(1)
            others.zero_grad()
            loss.backward()
            others.step()
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half, cache_enabled=False):
                opinion, features = critic(torch.cat([fake, masks], 1), learns=False)
                with torch.no_grad():
                    _, wanted = critic(torch.cat([original, hidden], 1))
                error = (hidden * (again - original).abs()).sum() / (hidden.sum() * original.shape[1]).clamp_min(1)
                seen = sum((one[: len(original)].float() - two.float()).abs().mean() for one, two in zip(
                    features, wanted, strict=True))
                convinced = -(small * opinion.float()).sum() / small.sum().clamp_min(1)
                total = _ERROR * error + _FEATURES * seen + _OPINION * min(1.0, 4 * step / updates) * convinced
            own.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(painter.parameters(), 5.0)
            own.step()
            keep = min(_AVERAGE, 1 - 1 / (step + 1))
            for mean, now in zip(average.parameters(), painter.parameters(), strict=True):
                mean.lerp_(now.detach(), 1 - keep)
            if step % 20 == 0 or step == updates - 1:
                with torch.no_grad():
                    before = (hidden * (drawn - original).abs()).sum() / (hidden.sum() * original.shape[1]).clamp_min(1)
                history.append({"step": float(step), "error": float(error.detach() / before.clamp_min(1e-6)),
                                "critic": float(loss.detach()), "convinced": float(convinced.detach())})
                if delay is not None:
                    steps.set_postfix({name: round(value, 3) for name, value in history[-1].items() if name != "step"})
        painter.load_state_dict(average.state_dict())
    if not all(torch.isfinite(part).all() for part in painter.parameters()):
        raise FloatingPointError("Training the painter ended in weights that are not finite.")
    painter.eval().requires_grad_(False)
    return history


def blended(moved: Tensor, drawn: Tensor, original: Tensor, mask: Tensor, painted: Any) -> Tensor:
    """The moved picture, with what was lost of the original where nothing changed, and what was painted where it did."""
    return moved + (1 - mask) * (original - drawn) + mask * painted
