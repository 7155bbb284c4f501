"""
A generator of your own
=======================

G(z) draws images of 128×128 pixels; the explained classifier reads them at 32×32. As with a StyleGAN there is no encoder, so
the code of an image is found by inversion, and the search runs in the generator's own space.
"""

# %%
# G stands for any ``nn.Module`` that maps (B, d) to (B, C, H, W). This one is small and trained on the spot, so that the
# page runs anywhere: the decoder of a VAE of scikit-learn's digits, with a bicubic enlargement behind it. It draws in
# [−1, 1], as StyleGANs do.
import torch
import torch.nn.functional as F
from torch import nn

from cfexplain import DiffeomorphicExplainer
from cfexplain.coordinates import VAE, GeneratorCoordinates, Inversion
from cfexplain.datasets import load_digits_images
from cfexplain.nets.resize import Resize

SIDE = 128


def enlarged(small):
    return F.interpolate(small, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)


class Generator(nn.Module):
    """z (B, 16) -> images (B, 1, 128, 128) in [-1, 1]."""

    z_dim = 16

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, z):
        return 2 * enlarged(self.decoder.decode(z)) - 1


digits, y = load_digits_images()
torch.manual_seed(0)
G = Generator(VAE(16, batch_size=64, training_budget=0.8, random_state=0).fit(digits).module_)

# %%
# The classifier knows images of 32×32 pixels and nothing of G. `Resize` in front of it reads the large ones.
net = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
                    nn.Linear(32 * 64, 10))
medium = Resize(32)(torch.from_numpy(digits[:1400])[:, None]).clamp(0, 1)
optimizer, labels = torch.optim.Adam(net.parameters(), lr=2e-3), torch.from_numpy(y[:1400])
for _ in range(8):
    for rows in torch.randperm(1400).split(64):
        optimizer.zero_grad()
        F.cross_entropy(net(medium[rows]), labels[rows]).backward()
        optimizer.step()

# %%
# `GeneratorCoordinates` makes coordinates of G. The images that `fit` is given set the scale of densities.
X = enlarged(torch.from_numpy(digits[1400:1440])[:, None]).numpy()
labels = y[1400:1440]
explainer = DiffeomorphicExplainer(
    nn.Sequential(Resize(32), net),
    generator=GeneratorCoordinates(G, output_range=(-1, 1), inversion=Inversion(steps=30, restarts=2)),
    confidence=0.99, plausibility_weight=0.3, batch_size=8, random_state=0).fit(X, labels)
print("accuracy on the large images", float((explainer.predict(X) == labels).mean()))

# %%
# The second row is what G can draw of the image, and what the search starts from: the reconstruction. The third is the
# counterfactual.
x = X[labels == 4]
cf = explainer.explain(x, target=9)
print(cf.summary())
cf.plot()

# %%
# A generator keeps the search among drawings, but not among drawings of a nine: where this small network takes something
# between an eight and a nine for a nine, so does its counterfactual, and one looks for such rows in the picture. What
# inversion could not reach is reported apart from the explanation, a number a row.
print("shape", cf.shape, "inversion error (L2)", cf.reconstruction_error.round(1))
