"""What other libraries advise for a case of `benchmarks.actionable`: DiCE, and alibi's prototypes. Both are optional.

``pip install dice-ml`` (0.12) and ``pip install alibi tensorflow`` (0.9.6) want versions of their own of what others need:
an environment for each is least trouble. Lines of one run are kept beside those of another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

__all__ = ["alibi_prototypes", "dice"]

Advice = tuple[pd.DataFrame, np.ndarray, float, float]


def of_each_row(case: Any, name: str, advise: Callable[[int], Any]) -> tuple[pd.DataFrame, np.ndarray]:
    """The first answer of each row, a mapping of cells, or none; and which rows have one."""
    after, found = case.rows.copy(), np.zeros(len(case.rows), dtype=bool)
    for column in case.X:
        after[column] = after[column].astype(case.X[column].dtype)
    for i in range(len(case.rows)):
        try:
            answer = advise(i)
        except Exception as error:  # it found none, and says so in many ways
            print(f"    {name}, row {i}: {type(error).__name__}: {str(error)[:100]}", flush=True)
            continue
        if answer is None:
            continue
        for column in case.X:
            cell = answer[column]
            number = case.X[column].dtype.kind in "if"
            after.iloc[i, after.columns.get_loc(column)] = case.X[column].dtype.type(cell) if number else cell
        found[i] = True
    return after, found


# ---------------------------------------------------------------------------------------------------------------- DiCE
def dice(case: Any, method: str) -> Advice:
    """DiCE, one answer a row: "random", "genetic", or "gradient" for models that torch can follow."""
    import dice_ml

    numbers = case.numbers
    classes = case.pipe.classes_.tolist()
    words = [name for name in case.X if name not in numbers]
    train = case.X.astype(dict.fromkeys(words, "category")) if method == "gradient" else case.X
    data = dice_ml.Data(dataframe=train.assign(label=[classes.index(label) for label in case.y]),
                        continuous_features=numbers, outcome_name="label")

    class Indexed:
        """DiCE wants classes 0 and 1."""

        def predict_proba(self, frame: Any) -> np.ndarray:
            return case.pipe.predict_proba(frame[list(case.X)].astype(case.X.dtypes.to_dict()))

        def predict(self, frame: Any) -> np.ndarray:
            return self.predict_proba(frame).argmax(1)

    if method == "gradient":
        names = list(data.one_hot_encode_data(train).columns)
        model = dice_ml.Model(model=Followed(case, names), backend="PYT", func="ohe-min-max")
        options: dict[str, Any] = {"max_iter": 500}
    else:
        model = dice_ml.Model(model=Indexed(), backend="sklearn")
        options = {"random_seed": 0} if method == "random" else {}
    started = time.process_time()
    explainer = dice_ml.Dice(data, model, method=method)

    def advise(i: int) -> Any:
        row = case.rows.iloc[i : i + 1]
        ranges = {name: [float(case.X[name].min()), float(case.X[name].max())] for name in numbers}
        for name in case.rising:
            ranges[name] = [float(row[name].iloc[0]), max(ranges[name][1], float(row[name].iloc[0]))]
        answer = explainer.generate_counterfactuals(
            row, total_CFs=1, desired_class=classes.index(case.wanted), features_to_vary=case.free, permitted_range=ranges,
            verbose=False, **options).cf_examples_list[0].final_cfs_df
        return None if answer is None or not len(answer) else answer.iloc[0]

    return *of_each_row(case, f"DiCE {method}", advise), 0.0, time.process_time() - started


class Followed(nn.Module):
    """The pipeline's own network, or logistic regression, on DiCE's codes: numbers from 0 to 1, and words as flags."""

    def __init__(self, case: Any, names: list[str]):
        super().__init__()
        prepare, model = case.pipe[0], case.pipe[-1]
        if not hasattr(model, "coefs_") and not hasattr(model, "coef_"):
            raise TypeError(f"{type(model).__name__} has no gradient")
        scaler, encoder = prepare.named_transformers_["standardscaler"], prepare.named_transformers_["onehotencoder"]
        numbers, words = case.numbers, [name for name in case.X if name not in case.numbers]
        flags = [f"{word}_{value}" for word, values in zip(words, encoder.categories_, strict=True) for value in values]
        codes = numbers + flags
        matrix, shift = np.zeros((len(codes), len(names))), np.zeros(len(codes))
        for place, name in enumerate(names):
            matrix[codes.index(name), place] = 1.0
        low, high = case.X[numbers].min().to_numpy(float), case.X[numbers].max().to_numpy(float)
        matrix[: len(numbers)] *= ((high - low) / scaler.scale_)[:, None]
        shift[: len(numbers)] = (low - scaler.mean_) / scaler.scale_
        layers = [(matrix, shift)]
        layers += [(weight.T, bias) for weight, bias in zip(model.coefs_, model.intercepts_, strict=True)] if hasattr(
            model, "coefs_") else [(model.coef_, model.intercept_)]
        modules: list[nn.Module] = []
        for k, (weight, bias) in enumerate(layers):
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(weight))
                linear.bias.copy_(torch.from_numpy(bias))
            modules += [linear, nn.ReLU()] if 0 < k < len(layers) - 1 else [linear]
        self.layers = nn.Sequential(*modules, nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


# --------------------------------------------------------------------------------------------------------------- alibi
def alibi_prototypes(case: Any) -> Advice:
    """alibi's CounterfactualProto with k-d trees, on the pipeline's standardised numbers and flags: it knows no rules."""
    import tensorflow
    from alibi.explainers import CounterfactualProto

    tensorflow.compat.v1.disable_v2_behavior()
    prepare, model = case.pipe[0], case.pipe[-1]
    scaler, encoder = prepare.named_transformers_["standardscaler"], prepare.named_transformers_["onehotencoder"]
    codes = prepare.transform(case.X).astype(np.float32)
    own = prepare.transform(case.rows).astype(np.float32)
    place, groups = len(case.numbers), {}
    for values in encoder.categories_:
        groups[place] = len(values)
        place += len(values)
    number = codes[:, : len(case.numbers)]
    ends = [np.concatenate([end, np.full(len(groups), flag)])[None].astype(np.float32)
            for end, flag in ((number.min(0), -1.0), (number.max(0), 1.0))]  # of each category one number, a distance
    started = time.process_time()
    explainer = CounterfactualProto(
        lambda rows: model.predict_proba(rows), (1, codes.shape[1]), beta=0.1, use_kdtree=True, theta=10.0, cat_vars=groups,
        ohe=True, feature_range=tuple(ends), max_iterations=500, c_init=1.0, c_steps=5)
    explainer.fit(codes, d_type="abdm", disc_perc=[25, 50, 75])
    fitted, wanted = time.process_time(), case.pipe.classes_.tolist().index(case.wanted)

    def advise(i: int) -> Any:
        answer = explainer.explain(own[i : i + 1], target_class=[wanted], verbose=False).cf
        if answer is None:
            return None
        x = answer["X"].reshape(-1)
        cells = dict(zip(case.numbers, scaler.inverse_transform(x[None, : len(case.numbers)])[0], strict=True))
        for name in case.numbers:  # what did not move comes back as it was, and whole numbers whole
            if abs(cells[name] - case.rows[name].iloc[i]) < 1e-3 * scaler.scale_[case.numbers.index(name)]:
                cells[name] = case.rows[name].iloc[i]
            elif case.X[name].dtype.kind == "i":
                cells[name] = round(cells[name])
        words = [name for name in case.X if name not in case.numbers]
        for name, values, (first, count) in zip(words, encoder.categories_, groups.items(), strict=True):
            cells[name] = values[x[first : first + count].argmax()]
        return cells

    return *of_each_row(case, "alibi", advise), fitted - started, time.process_time() - fitted
