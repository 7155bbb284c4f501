"""
Loans: from a table to advice that can be acted on
==================================================

What would have to change for this application to be approved? A few lines from a DataFrame to a plan, within rules, and what
the same advice costs two groups of people.
"""

# %%
# A table like a bank's, made here because none can be bundled: whoever decided looked at income, debts, years in the job,
# and held the region against some. ``late`` is how many payments came late.
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from cfexplain import PipelineExplainer, ScanExplainer, summarize_group

random, n = np.random.default_rng(0), 2000
X = pd.DataFrame({
    "age": random.integers(20, 70, n), "income": random.normal(45, 14, n).clip(12).round(1),
    "debt": random.gamma(3, 6, n).round(1), "years": random.integers(0, 20, n), "late": random.poisson(0.8, n),
    "purpose": random.choice(["car", "house", "studies"], n), "region": random.choice(["north", "south"], n)})
good = X.income - 0.8 * X.debt + 0.7 * X.years - 6 * X.late - 7 * (X.region == "south") + random.normal(0, 4, n)
y = np.where(good > 25, "approved", "declined")

# %%
# A pipeline, an explainer of it, and a plan. Nobody gets younger or moves for a loan, the past stays, years in the job only
# become more, and debts stay under half of the income. Nothing is trained but the pipeline: `ScanExplainer` tries changes of
# few columns on the model itself.
words = make_column_transformer((OrdinalEncoder(), ["purpose", "region"]), remainder="passthrough")
pipe = make_pipeline(words, HistGradientBoostingClassifier(random_state=0)).fit(X, y)
explainer = PipelineExplainer(pipe, ScanExplainer(), immutable=["age", "region", "late"], monotone={"years": "increase"},
                              constraints=["debt <= 0.5 * income"], random_state=0).fit(X, y)
declined = X[(pipe.predict(X) == "declined") & (X.debt <= 0.5 * X.income)][:100]
cf = explainer.explain(declined[:5], target="approved", k=2)
print(cf.plan(0))

# %%
# Two answers for each row, which change other columns. The table before and after has the dtypes that came in.
before, after = cf.group(0).to_frames()
pd.concat([before.iloc[:1], after], keys=["before", "after"])

# %%
# The answers of two rows side by side, each change with the values before and after.
cf.plot_answers(n=2)

# %%
# As a report that opens in any browser, with a line for each row, and what to do in which order:
#
# .. image:: /figures/loans_report.png
#    :alt: The report: rows with their status, the columns that change, and a plan, step by step
cf.to_html(Path(tempfile.mkdtemp()) / "loans.html")

# %%
# What carries many over, and what it costs each region: the same model asks more of one of them.
many = explainer.explain(declined, target="approved")
groups = summarize_group(explainer, many, by=declined.region)
print(groups)
groups.plot()
