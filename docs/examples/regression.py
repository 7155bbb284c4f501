"""
Regression: a value, an interval, or as low as it goes
======================================================

A regressor is explained in the same way: not a class but a value is asked for. Here the model is a skorch
network that predicts how far diabetes progresses within a year, and the question is what would have to differ in a patient
for a mild course.
"""

# %%
# Ten measurements of 442 patients, standardised; the target is a score of 25 to 346.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor

from cfexplain import DiffeomorphicExplainer

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
train, test = X.index[:350], X.index[350:]
X = X.rename(columns={"bp": "blood pressure", "s1": "cholesterol", "s2": "LDL", "s3": "HDL", "s4": "cholesterol / HDL",
                      "s5": "log triglycerides", "s6": "glucose"})
X = StandardScaler().set_output(transform="pandas").fit(X.loc[train]).transform(X).astype(np.float32)
y = y.astype(np.float32)
torch.manual_seed(0)
model = NeuralNetRegressor(
    torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1)),
    optimizer=torch.optim.AdamW, optimizer__weight_decay=0.1, lr=0.02, max_epochs=120, train_split=None, verbose=0)
model.fit(X.loc[train].to_numpy(copy=True), y[train].to_numpy(copy=True)[:, None])
print("R² on held-out patients", round(model.score(X.loc[test].to_numpy(copy=True), y[test]), 2))

# %%
# Age and sex cannot be changed by any treatment, so they are held. The search runs in the base space of a normalizing flow,
# because blood values hang together, and ``plausibility_weight`` asks for a code that is typical.
explainer = DiffeomorphicExplainer(
    model, immutable=["age", "sex"], plausibility_weight=1.0, training_budget=0.3, random_state=0,
).fit(X.loc[train], y[train])

# %%
# The patients with the worst prognosis, and an interval to reach.
prognosis = explainer.predict(X.loc[test])
rows = X.loc[test].iloc[np.argsort(-prognosis)[:40]]
cf = explainer.explain(rows, target=(90, 110))
print(cf.summary())
cf.plot(4)

# %%
# One value a row works as well, and so does an end without a number: ``"minimize"`` goes as far as the search leads.
values = np.linspace(60, 220, 9)
one = rows.iloc[[0] * len(values)]
ways = explainer.explain(one, target=values)
names = list(X.columns)
change = ways.x_cf - ways.x
moved = np.argsort(-np.abs(change).max(0))[:5]
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for column, colour in zip(moved, COLOURS, strict=True):
    axes.plot(ways.prediction, change[:, column], marker="o", color=colour, label=names[column])
axes.axvline(ways.source[0], color="0.6", ls="--")
axes.axhline(0, color="0.8", lw=0.8)
axes.set(xlabel="predicted progression of the counterfactual", ylabel="change, standard deviations",
         title="One patient, nine answers")
axes.legend(frameon=False)
