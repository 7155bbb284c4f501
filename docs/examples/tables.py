"""
Tables: which measurements would have to differ?
================================================

Rows of a table, in a scikit-learn pipeline, in original units, with columns that may not move.
"""

# %%
# The breast cancer data that come with scikit-learn: 30 measurements of cell nuclei a patient.
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cfexplain import PLACEExplainer

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
y = np.array(["malignant", "benign"])[y]
train, test = X.index[:450], X.index[450:]

# %%
# An explainer ends a pipeline. Three columns are held fixed: an explanation in terms of texture is not wanted here.
fixed = [name for name in X.columns if "texture" in name]
pipe = make_pipeline(
    StandardScaler().set_output(transform="pandas"),
    PLACEExplainer(immutable=fixed, training_budget=0.3, random_state=0),
).fit(X.loc[train], y[train])
explainer = pipe[-1]
print("accuracy of the explained classifier", round(float((pipe.predict(X.loc[test]) == y[test]).mean()), 3))

# %%
# In the units of the search, which are standard deviations: every bar is a change, with the values before and after.
rows = X.loc[test][pipe.predict(X.loc[test]) == "malignant"]
cf = explainer.explain(pipe[:-1].transform(rows), target="benign")
cf.plot(2)

# %%
# In original units: `transform` explains, and the pipeline's `inverse_transform` undoes the scaling. No target is named, so
# each row goes to the other class.
counterfactual = pd.DataFrame(pipe.inverse_transform(pipe.transform(rows)), index=rows.index, columns=rows.columns)
change = (counterfactual - rows).iloc[:3]
change.loc[:, change.abs().max() > 0].round(2).T.head(12)

# %%
# Fixed columns came back as they were.
print("largest change in", fixed, "is", float(np.abs(counterfactual[fixed] - rows[fixed]).max().max()))
print(cf.summary())
