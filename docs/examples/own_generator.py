"""A generator of your own: G(z) draws 512×512 images, the explained classifier reads them at 64×64.

    python docs/examples/own_generator.py [picture.png]

As with a StyleGAN, there is no encoder: an image's z is found by inversion. G here is a small one that is trained on the
spot (the decoder of a VAE of scikit-learn's digits, enlarged), so that the example runs anywhere in a few minutes; put any
`nn.Module` that maps (B, d) to (B, C, H, W) in its place.
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

from cfexplain import DiffeomorphicExplainer
from cfexplain.coordinates import VAE, GeneratorCoordinates, Inversion
from cfexplain.datasets import load_digits_images
from cfexplain.nets.resize import Resize

SIDE = 512


class Generator(nn.Module):
    """z (B, 16) -> images (B, 1, 512, 512) in [-1, 1], as StyleGANs draw them."""

    z_dim = 16

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder

    def forward(self, z):
        small = self.decoder.decode(z)
        return 2 * F.interpolate(small, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1) - 1


def main() -> None:
    digits, y = load_digits_images()
    torch.manual_seed(0)
    G = Generator(VAE(16, random_state=0).fit(digits).module_)

    def enlarged(images):
        return F.interpolate(torch.from_numpy(images)[:, None], size=(SIDE, SIDE), mode="bicubic",
                             antialias=True).clamp(0, 1).numpy()

    # The classifier knows 64×64 images and nothing of G.
    net = nn.Sequential(nn.Conv2d(1, 16, 8, 4, 2), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
                        nn.Linear(32 * 64, 10))
    optimiser, train = torch.optim.Adam(net.parameters(), 2e-3), slice(0, 1400)
    for _ in range(8):
        for rows in torch.randperm(1400).split(64):
            x = F.interpolate(torch.from_numpy(digits[train][rows])[:, None], size=(64, 64), mode="bicubic", antialias=True)
            optimiser.zero_grad()
            F.cross_entropy(net(x.clamp(0, 1)), torch.from_numpy(y[train][rows])).backward()
            optimiser.step()

    X, labels = enlarged(digits[1400:1460]), y[1400:1460]
    explainer = DiffeomorphicExplainer(
        nn.Sequential(Resize(64), net),
        generator=GeneratorCoordinates(G, output_range=(-1, 1), inversion=Inversion(steps=60, restarts=2)),
        confidence=0.95, plausibility_weight=0.3, batch_size=8, random_state=0).fit(X, labels)
    x = X[labels == 4][:5]
    cf = explainer.explain(x, target=9)
    print(cf.summary())
    print("images", cf.shape, "inversion error a row (L2)", cf.reconstruction_error.round(1))
    cf.plot().figure_.savefig(sys.argv[1] if len(sys.argv) > 1 else "own_generator.png", dpi=80)


if __name__ == "__main__":
    main()
