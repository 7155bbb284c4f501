"""
Beside Captum: where a saliency map points, and what a counterfactual changes
=============================================================================

Captum's attributions say where the classifier's score for a class is sensitive. A counterfactual says what would have to be
there instead. Both are pictures of the same size, so they can be laid side by side, and the attribution can be tested: do
the pixels that it points to flip the decision, once they are replaced by the counterfactual's?
"""

# %%
# A small network on scikit-learn's digits, and counterfactuals of it.
import matplotlib.pyplot as plt
import torch
from captum.attr import IntegratedGradients, Occlusion, Saliency
from captum.attr import visualization as viz

from cfexplain import PLACEExplainer
from cfexplain.bridges.captum import compare_saliency
from cfexplain.datasets import load_digits_images

X, y = load_digits_images()
X_train, y_train, X_test, y_test = X[:1400], y[:1400], X[1400:], y[1400:]
explainer = PLACEExplainer(training_budget=0.15, random_state=0).fit(X_train, y_train)
net = explainer.classifier_.module
x = X_test[(y_test == 4) & (explainer.predict(X_test) == 4)]
cf = explainer.explain(x, target=9)

# %%
# Captum's attributions of the score that decides between the two: that of nine minus that of four.
inputs = torch.from_numpy(x)[:, None].requires_grad_()


def nine_rather_than_four(images):
    logits = net(images)
    return logits[:, 9] - logits[:, 4]


maps = {
    "Saliency": Saliency(nine_rather_than_four).attribute(inputs, abs=False),
    "IntegratedGradients": IntegratedGradients(nine_rather_than_four).attribute(inputs),
    "Occlusion": Occlusion(nine_rather_than_four).attribute(inputs, sliding_window_shapes=(1, 2, 2)),
    "counterfactual": torch.from_numpy(cf.x_cf - cf.x)[:, None],
}
maps = {name: values.detach().numpy()[:, 0] for name, values in maps.items()}

# %%
# Captum draws any of them: ``x′ − x`` is an attribution like the others.
figure, axes = plt.subplots(3, len(maps) + 1, figsize=(11, 6.4), layout="constrained")
for i, row in enumerate(axes):
    row[0].imshow(x[i], cmap="gray")
    row[0].set(xticks=[], yticks=[], title="4" if i == 0 else "")
    for ax, (name, values) in zip(row[1:], maps.items(), strict=True):
        viz.visualize_image_attr(values[i][..., None], x[i][..., None], method="heat_map", sign="all", cmap="PuOr",
                                 outlier_perc=1, plt_fig_axis=(figure, ax), use_pyplot=False)
        ax.set_title(name if i == 0 else "")

# %%
# `compare_saliency` asks every map two questions, row by row. Does it point at what the counterfactual changes
# (``spearman``, ``overlap``, ``pointing``)? And are its strongest pixels right: replaced by the counterfactual's, do they
# flip the decision (``flip@0.2``: a fifth of the pixels)? The counterfactual's own order of pixels and a random one take the
# same test.
found = compare_saliency(cf, ("Saliency", "IntegratedGradients", "Occlusion"), explainer, shares=(0.1, 0.2, 0.3))
found.to_frame().xs("mean", axis=1, level=1).round(2)

# %%
found.plot("flips")
