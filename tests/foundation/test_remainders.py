"""What a vectorised loop leaves to other code is found, whatever the numbers are."""

import pytest
import torch
import torch.nn.functional as F

from cfexplain.foundation.remainders import VECTOR, Remainders, in_vectors


@pytest.mark.parametrize(("function", "name"), [(torch.exp, "exp"), (F.softplus, "softplus"), (torch.sigmoid, "sigmoid"),
                                                (lambda x: x**3, "pow"), (torch.tanh, "tanh")])
@pytest.mark.parametrize("value", [0.3, 0.0, 30.0])
def test_what_computes_numbers_one_by_one_is_found(function, name, value):
    """Also where what comes out is what went in, as softplus of 30 is."""
    x = torch.full((2,), value)
    with Remainders(2) as seen:
        function(x)
    assert seen.found == name
    for rows, call in ((2, lambda: in_vectors(function, x)), (VECTOR, lambda: function(x.repeat(VECTOR // 2)))):
        with Remainders(rows) as seen:
            call()
        assert not seen.found


def test_what_moves_numbers_is_not():
    x = torch.rand(2, 5)
    with Remainders(2) as seen:
        torch.cat([x, torch.zeros(2, 1)], 1).flip(0)[:, 1:].clone().mul(2).add(1).relu().sqrt().clamp(0, 1)
    assert not seen.found
