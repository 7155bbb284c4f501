"""
Is it any good? How to look at counterfactuals
==============================================

A counterfactual can be valid, plausible by its own figure, and worth nothing. This page makes four that are, on purpose, and
shows by which figure each gives itself away. Ask these questions of your own results, in this order.
"""

# %%
# First a result that is good, to compare with.
import warnings

import numpy as np
from sklearn.svm import SVC

from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE
from cfexplain.datasets import load_digits_images

X, y = load_digits_images()
X_train, y_train, X_test, y_test = X[:1400], y[:1400], X[1400:], y[1400:]
explainer = PLACEExplainer(random_state=0).fit(X_train, y_train)
zeros = X_test[(y_test == 0) & (explainer.predict(X_test) == 0)]
good = explainer.explain(zeros, target=8)
good.plot(8)

# %%
# 1. Can the coordinates draw the data at all?
# --------------------------------------------
# Look at the reconstructions before you look at anything else. Two numbers cannot hold a digit: the search then explains
# another person's zero. `fit` warns, ``reconstruction_`` has the figures.
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    narrow = PLACEExplainer(explainer.classifier_.module, coordinates=VAE(latent_dim=2, random_state=0), training_budget=0.5,
                            random_state=0).fit(X_train, y_train)
print(*[str(warning.message) for warning in said if "cannot draw" in str(warning.message)], sep="\n")
print("two latents:  ", narrow.reconstruction_)
print("the default:  ", explainer.reconstruction_)
narrow.explain(zeros, target=8).plot(8)

# %%
# 2. Do they all look alike?
# --------------------------
# Asked for more confidence than real eights have, and for the likeliest of all eights, every zero becomes one prototype:
# validity and plausibility have never been better. *Spread* is what falls, the distance among counterfactuals over that
# among their originals; ``measures()`` finds it, and the summary says so first.
prototype = explainer.set_params(confidence=0.9999, plausibility="likelihood", stop="converged", max_steps=400).explain(
    zeros, target=8)
explainer.set_params(confidence="auto", plausibility="typical", stop="conditions", max_steps=100)
print("spread", {name: round(cf.measures().spread, 2) for name, cf in (("good", good), ("prototype", prototype))})
prototype.plot(8)

# %%
# 3. Would anybody but the model agree?
# -------------------------------------
# A search that asks the model alone stops at its boundary: grey pictures that are half an eight. The second opinion comes
# with the result; a model of another kind, which took no part, is better still.
judge = SVC(random_state=0).fit(X_train.reshape(len(X_train), -1), y_train)
alone = PLACEExplainer.preset("classifier-only").get_params()
boundary = explainer.set_params(**{name: alone[name] for name in (
    "confidence", "plausibility_weight", "second_opinion", "feature_weight", "ink_weight", "start", "update", "step_size",
    "refine")}).explain(zeros, target=8)
for name, cf in (("good", good), ("boundary", boundary)):
    agrees = (judge.predict(cf.x_cf.reshape(len(cf), -1)) == 8).mean()
    print(f"{name:9} valid {cf.valid.mean():.2f}   another model agrees {agrees:.2f}   plausibility (median percentile) "
          f"{np.median(cf.density_percentile):.0f}")
boundary.plot(8)

# %%
# 4. Does the model know what it says?
# ------------------------------------
# An explanation of a model that has learned nothing shows nothing, however fine the picture. Here labels were shuffled: what
# the model says of a zero means nothing, nor does what else it would nearly say. `fit` warns, p is one in ten or little
# more, and what is "valid" is a zero still.
rng = np.random.default_rng(0)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    ignorant = PLACEExplainer(training_budget=0.2, random_state=0).fit(X_train, rng.permutation(y_train))
    nonsense = ignorant.explain(zeros[:8])
print(*{str(warning.message) for warning in said}, sep="\n")
nonsense.plot(8)

# %%
# What the summary says of the good one, the prototypes and the boundary:
for name, cf in (("good", good), ("prototype", prototype), ("boundary", boundary)):
    print(f"{name}: {'; '.join(cf.measures().warnings) or 'nothing to complain of'}\n")
