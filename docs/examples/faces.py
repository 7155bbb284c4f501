"""
Faces: the same person, smiling
===============================

An autoencoder blurs, and a blurred stranger explains nothing about the person in the picture. With ``detail="blend"`` (the
default for images) what the autoencoder lost is put back wherever the picture did not change, so that the whole difference
between the two pictures is the explanation.

.. note::
   This page needs data that cannot be bundled: ``smiles_64.npz`` (13,151 grey faces of 64×64 pixels with a label for a
   smile; see `load_smiles`) in ``$CFEXPLAIN_DATA`` or in ``~/.cache/cfexplain``. Where the documentation was built without
   it, the code is shown and there are no pictures. For faces of your own, replace ``load_smiles()`` by arrays X of shape
   (n, 64, 64) in [0, 1] and y of labels. The networks are trained at the first run, which takes many minutes on one core,
   and are kept in ``~/.cache/cfexplain/gallery``; after that the page takes seconds.
"""

# %%
# Faces, of which 2,000 are held out. Two of seven smile.
import os
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE
from cfexplain.datasets import load_smiles
from cfexplain.perceptual import squeezenet_features

X, y = load_smiles()
order = np.random.RandomState(0).permutation(len(X))
X_test, y_test, X_train, y_train = X[order[:2000]], y[order[:2000]], X[order[2000:]], y[order[2000:]]
KEPT = Path.home() / ".cache" / "cfexplain" / "gallery"


def kept(name, train):
    """What `train` returned the first time."""
    file = KEPT / f"{name}.joblib"
    if not file.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        joblib.dump(train(), file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
    return joblib.load(file)


# %%
# The network to explain, trained as anyone would: mirrored and shifted faces, balanced classes.
def train_net():
    torch.manual_seed(0)
    layers = []
    for a, b in ((1, 16), (16, 32), (32, 64), (64, 96)):
        layers += [nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
                   nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 2))
    faces, smiles = torch.from_numpy(X_train)[:, None], torch.from_numpy((y_train == "smile").astype(int))
    weight = len(smiles) / (2 * torch.bincount(smiles))
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-3)
    epochs, batch = 8, 128
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * (len(faces) // batch + 1))
    for _ in range(epochs):
        for rows in torch.randperm(len(faces)).split(batch):
            x = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, faces[rows].flip(3), faces[rows])
            x = torch.roll(x, torch.randint(-3, 4, (2,)).tolist(), (2, 3))
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), smiles[rows], weight, label_smoothing=0.02).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


net = kept("faces-net", train_net)

# %%
# The space to search: an autoencoder of 64 numbers a face. A perceptual term makes its drawings sharper; it is used where
# the weights of SqueezeNet lie beside the faces.
weights = Path(os.environ.get("CFEXPLAIN_DATA", ".")) / "squeezenet1_1_caffe.pth"
vae = kept("faces-vae", lambda: VAE(
    64, beta=1.0, likelihood="gaussian", sigma=0.1, augment="mirror", batch_size=128, random_state=0,
    training_budget=14 * len(X_train) / 128 / 900,  # 14 epochs; 1.0 is 900 updates
    perceptual=squeezenet_features(weights) if weights.is_file() else None, perceptual_weight=1000.0).fit(X_train))

# %%
# Labels are the user's: the network's outputs 0 and 1 are "no smile" and "smile", in sorted order.
explainer = kept("faces-explainer", lambda: PLACEExplainer(
    net, coordinates=FrozenEstimator(vae), confidence=0.95, opinion_confidence=0.9, random_state=0).fit(X_train, y_train))
for name in explainer.classes_:
    print("recall of", name, round(float((explainer.predict(X_test[y_test == name]) == name).mean()), 3))

# %%
# Smile, please. Turned and half-covered faces are the hardest: what the autoencoder cannot draw it cannot change either.
serious = X_test[(y_test == "no smile") & (explainer.predict(X_test) == "no smile")]
cf = explainer.explain(serious[:40], target="smile")
print(cf.summary())
cf[:8].plot()

# %%
# And the other way.
smiling = X_test[(y_test == "smile") & (explainer.predict(X_test) == "smile")]
explainer.explain(smiling[:8], target="no smile").plot()

# %%
# What the autoencoder alone would have shown: ``detail="decoder"``, as published. Parameters of the search are read when
# it runs, so no new fit is needed.
explainer.set_params(detail="decoder").explain(serious[:8], target="smile").plot()
