r"""
Why coordinates matter: a helix
===============================

Data that fill only a curve in space are the smallest case of what images are: points on a thin manifold. A classifier has
learned what it says *on* the curve, and anything at all beside it. Gradient ascent in the data's own space leaves the curve
at once; the same ascent in the base space of a normalizing flow cannot.

This is the toy example of *Diffeomorphic Counterfactuals with Generative Models* (section 4.1.1).
"""

# %%
# Points on a helix in :math:`\mathbb{R}^3`. The classes are its lower and its upper half.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.frozen import FrozenEstimator

from cfexplain import DiffeomorphicExplainer, GradientExplainer
from cfexplain.coordinates import Flow
from cfexplain.datasets import helix_distance, make_helix

X, y = make_helix(5000, random_state=0)
X = X.astype(np.float32)

# %%
# The network that is explained is a plain PyTorch module with logits for two classes.
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
for rows in torch.randperm(5000).repeat(4).split(100):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(torch.from_numpy(X[rows])), torch.from_numpy(y[rows])).backward()
    optimizer.step()

# %%
# A flow is a differentiable bijection between points :math:`x` and codes :math:`z` that are spread like a normal
# distribution. It knows nothing of the classifier.
flow = Flow(noise=0.01, batch_size=128, training_budget=0.15, random_state=0).fit(X)

# %%
# The same ascent of the same network, in :math:`x` and in :math:`z`, until the other class has a probability of 0.9.
# ``sparse=False`` is the ascent as it is: columns of a table would else be changed one by one, as few of them as do.
in_x = GradientExplainer(net, confidence=0.9, update="normalized", random_state=0).fit(X, y)
in_z = DiffeomorphicExplainer(net, generator=FrozenEstimator(flow), confidence=0.9, sparse=False, random_state=0).fit(X, y)

x, _ = make_helix(200, random_state=1)
x = x.astype(np.float32)
found = {"in x": in_x.explain(x), "in z": in_z.explain(x)}
for space, cf in found.items():
    distance = helix_distance(cf.x_cf)
    print(f"{space}: {cf.valid.mean():.0%} valid, median distance to the helix {np.median(distance):.3f}")

# %%
# The classifier is content with both: all points have their target. But those found in :math:`x` are far from any data.
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#999999"
t = np.linspace(-4, 4, 400)
starts = np.column_stack([np.sin([-2.6, 3.0]), np.cos([-2.6, 3.0]), [-2.6, 3.0]]).astype(np.float32)

figure = plt.figure(figsize=(9, 4.4))
axes = figure.add_axes((0.0, 0.02, 0.55, 0.96), projection="3d")
axes.plot(np.sin(t), np.cos(t), t, color=GREY, lw=5, alpha=0.5, label="data")
axes.plot(*starts.T, "D", color="black", label="start x")
for explainer, colour, label in ((in_x, VERMILLION, "ascent in x"), (in_z, BLUE, "ascent in z")):
    cf = explainer.explain(starts, record_path=True)
    for i, codes in enumerate(cf.path):
        way = explainer.coordinates_.inverse_transform(codes)
        axes.plot(*way.T, color=colour, marker=".", ms=5, label=label if i == 0 else None)
        axes.plot(*way[-1:].T, color=colour, marker="X", ms=9)
axes.set(xlabel="$x_1$", ylabel="$x_2$", zlabel="$x_3$")
axes.view_init(elev=14, azim=-60)
axes.legend(loc="upper left", frameon=False)

box = figure.add_axes((0.68, 0.14, 0.3, 0.76))
drawn = box.boxplot([helix_distance(cf.x_cf) for cf in found.values()], widths=0.5, patch_artist=True,
                    medianprops={"color": "black"})
for patch, colour in zip(drawn["boxes"], (VERMILLION, BLUE), strict=True):
    patch.set(facecolor=colour, alpha=0.7)
box.set(yscale="log", xticks=[1, 2], xticklabels=list(found), ylabel="distance to the helix", title="Where 200 searches end")

# %%
# Whether a flow knows the manifold can be asked directly: how many directions it gives room to at a point. Here it is one,
# and it is the direction of the curve.
from cfexplain.geometry import tangent_space  # noqa: E402

space = tangent_space(flow, x, k=3, random_state=0)
along = np.column_stack([np.cos(x[:, 2]), -np.sin(x[:, 2]), np.ones(len(x))]) / np.sqrt(2)
print("median singular values", np.median(space.singular_values, axis=0).round(3))
print("median cosine with the curve", np.median(np.abs((space.vectors[:, 0] * along).sum(1))).round(4))
