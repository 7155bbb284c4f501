"""The explainers that every invariant is tested with, and what each of them finds for a few rows."""

import pytest

PLACE = ["image", "table"]
OTHERS = ["flow_image", "flow_table", "vae_image", "gradient_table", "revise_image", "clarity_table", "leap_image",
          "forest_table", "direction_table", pytest.param("prototype_table", marks=pytest.mark.slow)]  # it takes most steps


def case_of(request):
    """A fitted explainer, held-out rows of which it says what they are, and another class for them."""
    explainer = request.getfixturevalue(f"{request.param}_explainer")
    kind = request.param.split("_")[-1]
    X, y, X_test, y_test = request.getfixturevalue({"image": "digits", "table": "table"}[kind])
    source, target = {"image": (4, 9), "table": ("malignant", "benign")}[kind]
    return explainer, X_test[(y_test == source) & (explainer.predict(X_test) == source)][:5], target


_found = {}


def found_of(case):
    """What the explainer of a case finds: searched once in each process, to be compared with and left as it is."""
    explainer, x, target = case
    if id(explainer) not in _found:  # it lives as long as the session
        _found[id(explainer)] = explainer.explain(x, target)
    return _found[id(explainer)]
