"""
Photographs: with and without sunglasses
========================================

What would have to change in this photograph for the network to say *sunglasses*? A question that anybody can judge, about
pictures in colour.

The pictures are made of one portrait that comes with scikit-image: the astronaut Eileen Collins (NASA, public domain),
turned, moved, mirrored and lit at random, and in half of them she wears sunglasses that are drawn by a few lines of code. No
picture that is explained below was seen in training, but all are of one person: a page that trains in a minute can show how
a search works on photographs, and not how well it does on a thousand people. For that, see `what was measured on photographs
<../howto/own_autoencoder.html#photographs>`_.
"""

# %%
# The portrait, and the same with sunglasses.
import numpy as np
import torch
from PIL import Image, ImageDraw
from skimage.data import astronaut
from torch import nn

from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE

SIDE, FINE = 48, 4  # pixels of a picture; how much finer glasses are drawn
portrait = Image.fromarray(astronaut()[5:195, 125:315])
with_glasses = portrait.resize((190 * FINE, 190 * FINE))
pen = ImageDraw.Draw(with_glasses)
for x, y in ((77, 96), (122, 98)):
    pen.ellipse([FINE * side for side in (x - 20, y - 17, x + 20, y + 17)], fill=(25, 20, 22))
pen.line([FINE * side for side in (77, 90, 122, 92)], fill=(25, 20, 22), width=3 * FINE)
with_glasses = with_glasses.resize(portrait.size, Image.Resampling.LANCZOS)

# %%
# Many pictures of each. Labels are words.
rng = np.random.default_rng(0)


def taken(picture):
    """Turned, moved, lit and mirrored at random: (3, SIDE, SIDE) in [0, 1]."""
    angle, scale = np.radians(rng.uniform(-9, 9)), rng.uniform(0.72, 0.8) * picture.width / SIDE
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    x, y = picture.width * (0.5 + rng.uniform(-0.04, 0.04, 2))
    place = (c, -s, x - (c - s) * SIDE / 2, s, c, y - (c + s) * SIDE / 2)
    turned = picture.transform((SIDE, SIDE), Image.Transform.AFFINE, place, Image.Resampling.BICUBIC)
    lit = np.asarray(turned).transpose(2, 0, 1) / 255 * rng.uniform(0.75, 1.05) * rng.uniform(0.95, 1.05, (3, 1, 1))
    return lit[..., ::-1] if rng.random() < 0.5 else lit


wears = rng.random(640) < 0.5
X = np.stack([taken(with_glasses if one else portrait) for one in wears]).clip(0, 1).astype(np.float32)
y = np.where(wears, "sunglasses", "no glasses")
train, new = slice(None, 600), slice(600, None)

# %%
# The network to explain, trained as anyone would. Its outputs 0 and 1 are the labels in sorted order.
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1),
                    nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(288, 2))
optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
for _ in range(150):
    rows = torch.from_numpy(rng.integers(0, 600, 32))
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(torch.from_numpy(X)[rows]), torch.from_numpy(wears).long()[rows]).backward()
    optimizer.step()

# %%
# The explainer learns how these pictures look, in colour. So that this page takes a minute, its networks are trained for
# less than half as long as they usually are, and without the critic of patches that adds texture to what is drawn.
explainer = PLACEExplainer(net, coordinates=VAE(training_budget=0.4, critic=False), training_budget=0.4, random_state=0)
explainer.fit(X[train], y[train])
print("accuracy on new pictures", (explainer.predict(X[new]) == y[new]).mean())

# %%
# Sunglasses, please. They follow the head; light, hair and smile stay as they were.
cf = explainer.explain(X[new], target=np.where(wears[new], "no glasses", "sunglasses"))
print(cf.summary())
cf[cf.target == "sunglasses"][:8].plot()

# %%
# And off with them. Nobody has seen what was behind, so that eyes are drawn as they usually are on these pictures, and
# softer than the rest: the summary says how much softer.
cf[cf.target == "no glasses"][:8].plot()

# %%
# Only one side may change: ``region=`` takes a mask, a box or an outline. Is a monocle enough for this network?
left = np.zeros((SIDE, SIDE), bool)
left[:, :SIDE // 2] = True
bare = X[new][~wears[new]][:8]
half = explainer.explain(bare, target="sunglasses", region=left)
print("enough in", int(half.valid.sum()), "of", len(half))
half.plot()

# %%
# Larger photographs need an autoencoder that somebody has trained on many more pictures. It is one line: weights on disk, a
# folder or a model of diffusers, or two modules of yours. A small model of its latents is searched then.
#
# .. code-block:: python
#
#    from cfexplain.coordinates import PretrainedAutoencoder
#
#    outer = PretrainedAutoencoder("taesd_encoder.safetensors", "taesd_decoder.safetensors", cache="~/latents")
#    PLACEExplainer(net, coordinates=outer).fit(X, y)
