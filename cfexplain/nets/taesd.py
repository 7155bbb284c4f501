"""The TAESD family of tiny pretrained autoencoders, built as their weights say: TAESD, TAESDXL, TAESD3, TAEF1, TAEF2, …"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cfexplain.persistence import stored_by_sizes

__all__ = ["TinyDecoder", "TinyEncoder", "tiny_autoencoder"]

_GROUPS = 4  # of the normalisation in blocks that see the whole picture
State = Mapping[str, Tensor]


class _Block(nn.Module):
    """Three 3×3 convolutions and a skip; with `pooled`, GroupNorm over the whole picture goes first (TAEF2)."""

    def __init__(self, before: int, after: int, pooled: int = 0):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1))
        self.skip: nn.Module = nn.Identity() if before == after else nn.Conv2d(before, after, 1, bias=False)
        if pooled:
            self.pool = nn.Sequential(nn.Conv2d(before, pooled, 1, bias=False), nn.GroupNorm(_GROUPS, pooled), nn.ReLU(),
                                      nn.Conv2d(pooled, before, 1, bias=False))
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        if self.pooled:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + self.skip(x))


class _Squash(nn.Module):
    """Latents far from all that were seen are drawn in, smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * (x / 3).tanh()


class _Tiny(nn.Sequential):
    """Layers under the numbers that published weights have; `plan` lists (kind, before, after) of each that has weights.

    Kinds are 1: a convolution with a bias, 2: one without, which halves the sides or follows their doubling, 3: a block,
    more: a block that pools with so many channels.
    """

    halves: bool

    def __init__(self, plan: tuple[int, ...]):
        self.plan = tuple(plan)
        parts: list[nn.Module] = [] if self.halves else [_Squash()]
        rows = [plan[i : i + 3] for i in range(0, len(plan), 3)]
        for i, (kind, before, after) in enumerate(rows):
            if kind >= 3:
                parts.append(_Block(before, after, kind if kind > 3 else 0))
            elif kind == 2 and not self.halves:
                parts += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1, bias=False)]
            else:
                parts.append(nn.Conv2d(before, after, 3, 2 if kind == 2 else 1, 1, bias=kind == 1))
                parts += [nn.ReLU()] if not self.halves and i == 0 else []
        super().__init__(*parts)

    @property
    def stride(self) -> int:
        """Pixels of a picture to one latent, along a side."""
        return 2 ** sum(kind == 2 for kind in self.plan[::3])

    @classmethod
    def of(cls, state: State) -> _Tiny:
        """The network that these published weights are of.

        Raises
        ------
        ValueError
            They are not of the TAESD family's layout.
        """
        role = "encoder" if cls.halves else "decoder"
        plan: list[int] = []
        for name in sorted({int(key.split(".")[0]) for key in state if key.split(".")[0].isdigit()}):
            inside = "conv.0." if f"{name}.conv.0.weight" in state else ""
            weight = state.get(f"{name}.{inside}weight")
            if weight is None or weight.ndim != 4:
                raise ValueError(_strange(role, state))
            after, before = weight.shape[:2]
            pool = state.get(f"{name}.pool.0.weight")
            kind = (3 if pool is None else len(pool)) if inside else 1 if f"{name}.bias" in state else 2
            plan += [kind, before, after]
        net = cls(tuple(plan))
        wanted = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        if not plan or wanted != {key: tuple(value.shape) for key, value in state.items()}:
            raise ValueError(_strange(role, state, set(wanted) ^ set(state)))
        net.load_state_dict({key: value.float() for key, value in state.items()})
        return net.eval().requires_grad_(False)


@stored_by_sizes(lambda net: {"plan": list(net.plan)})
class TinyEncoder(_Tiny):
    """Images (B, C, H, W) in [0, 1] -> latents (B, k, H/8, W/8)."""

    halves = True


@stored_by_sizes(lambda net: {"plan": list(net.plan)})
class TinyDecoder(_Tiny):
    """Latents (B, k, h, w) -> images (B, C, 8h, 8w), in [0, 1] but for what rounding leaves."""

    halves = False


def tiny_autoencoder(states: Mapping[str, Any]) -> tuple[TinyEncoder, TinyDecoder]:
    """Encoder and decoder of the TAESD family from their weights.

    Parameters
    ----------
    states : mapping of str to Tensor
        Names begin with ``encoder.`` and ``decoder.``; ``encoder.layers.``, as in diffusers, will do, too.

    Raises
    ------
    ValueError
        Half of the pair is missing, the weights are of another layout, or the halves do not fit each other.

    Examples
    --------
    >>> encoder, decoder = TinyEncoder((1, 3, 4, 2, 4, 4, 1, 4, 2)), TinyDecoder((1, 2, 4, 2, 4, 4, 1, 4, 3))
    >>> states = {f"{role}.{name}": weight for role, net in (("encoder", encoder), ("decoder", decoder))
    ...           for name, weight in net.state_dict().items()}
    >>> twin, _ = tiny_autoencoder(states)
    >>> twin.stride, list(twin.state_dict()) == list(encoder.state_dict())
    (2, True)
    """
    halves: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}}
    for name, weight in states.items():
        role, _, rest = name.partition(".")
        if role in halves:
            halves[role][rest] = weight
    for role, state in halves.items():
        if not state:
            raise ValueError(f"These weights hold no {role}: no name begins with '{role}.'; they are {_some(states)}. Give "
                             "both halves: two files, encoder and decoder, or one file with both.")
    # diffusers numbers the decoder's layers without the squashing that comes first
    if all(name.startswith("layers.") for name in halves["decoder"]):
        halves["decoder"] = {re.sub(r"^layers\.(\d+)", lambda found: str(int(found[1]) + 1), name): weight
                             for name, weight in halves["decoder"].items()}
    halves["encoder"] = {name.removeprefix("layers."): weight for name, weight in halves["encoder"].items()}
    encoder, decoder = TinyEncoder.of(halves["encoder"]), TinyDecoder.of(halves["decoder"])
    made, taken, drawn, channels = encoder.plan[-1], decoder.plan[1], decoder.plan[-1], encoder.plan[1]
    if (made, encoder.stride, channels) != (taken, decoder.stride, drawn):
        raise ValueError(
            f"The halves are of two autoencoders: the encoder makes {made} channels of latents at 1/{encoder.stride} of "
            f"the sides from {channels} channels, the decoder takes {taken} at 1/{decoder.stride} and draws {drawn}. Give a "
            "pair that was published together.")
    return encoder, decoder  # type: ignore[return-value]


def _some(names: Any) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (", …" if len(names) > 3 else "") if first else "none at all"


def _strange(role: str, state: State, odd: Any = ()) -> str:
    return (f"The weights of the {role} are not of the TAESD family's layout (numbered layers, '0.weight', "
            f"'1.conv.0.weight', …): {'what differs is' if odd else 'their names are'} {_some(odd or state)}. Weights of "
            "another autoencoder go into its own module, which is passed in their place: PretrainedAutoencoder(encoder, "
            "decoder).")
