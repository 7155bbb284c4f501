"""
Digits: an explained image
==========================

The whole of `cfexplain` on the digits that come with scikit-learn: fit, explain, read the result, and compare methods.
"""

# %%
# `fit` trains a classifier, an autoencoder and a flow. A network of your own goes into ``classifier=``; here there is none,
# so a small one is trained. ``training_budget`` is cut to keep this page quick; leave it out for better pictures.
import numpy as np

from cfexplain import GradientExplainer, PLACEExplainer, evaluate
from cfexplain.datasets import load_digits_images

X, y = load_digits_images()
X_train, y_train, X_test, y_test = X[:1400], y[:1400], X[1400:], y[1400:]
explainer = PLACEExplainer(training_budget=0.15, random_state=0).fit(X_train, y_train)
print("accuracy of the explained classifier", round(float((explainer.predict(X_test) == y_test).mean()), 3))

# %%
# What would have to change in these fours for them to be nines?
fours = X_test[(y_test == 4) & (explainer.predict(X_test) == 4)]
cf = explainer.explain(fours, target=9)
cf.plot(8)

# %%
# Every row says how it went: whether the classifier agrees, how the counterfactual ranks among real nines by density (50 is
# as typical as the median nine), and how far it is.
print(cf.summary())

# %%
cf[:5].to_frame()[["source", "target", "proba_before", "proba_after", "density_percentile", "distance_x", "status"]]

# %%
# Counterfactuals answer "why 4 and not …?" for any alternative: one target a row, or none for the runner-up class.
one = np.repeat(fours[:1], 8, axis=0)
explainer.explain(one, target=[0, 1, 2, 3, 5, 6, 7, 8]).plot()

# %%
# Is the search in a latent space worth it? The same classifier, followed in its pixels, says nine just as surely, of
# pictures that are hardly nines.
adversarial = GradientExplainer(explainer.classifier_.module, step_size=0.005, random_state=0).fit(X_train, y_train)
attacked = adversarial.explain(fours, target=9)
attacked.plot(8)

# %%
# `evaluate` measures both on the same rows, failures included. ``judge`` is a classifier that took no part in any search.
from sklearn.svm import SVC  # noqa: E402

judge = SVC(random_state=0).fit(X_train.reshape(len(X_train), -1), y_train)


def second_opinion(cf, explainer):
    """Whether an independent classifier reads the target, row by row."""
    return judge.predict(np.asarray(cf).reshape(len(cf), -1)) == cf.target


table = evaluate({"PLACE": explainer, "pixels": adversarial}, fours, target=9,
                 metrics={"valid": lambda cf, explainer: cf.valid, "judge": second_opinion,
                          "L2": lambda cf, explainer: cf.distance_x})
print(table.to_markdown())
