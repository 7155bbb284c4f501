"""Gradients computed in parts: the whole batch's, whatever the number of threads, while other threads train."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from cfexplain.foundation.random import seeded_torch, stream
from cfexplain.nets.training import train_network
from cfexplain.nets.training_parts import Parts


def network(norm):
    with seeded_torch(0):
        return nn.Sequential(nn.Conv2d(1, 4, 3), *([nn.BatchNorm2d(4)] if norm else []), nn.ReLU(), nn.Flatten(),
                             nn.Linear(144, 2))


def noisy(module, rows, progress):
    noise = torch.randn(rows["x"].shape, generator=stream()) if module.training else 0
    return (module(rows["x"] + 0.1 * noise).float() - rows["y"]).square().sum(1)


def images(n):
    rng = np.random.RandomState(0)
    return {"x": torch.from_numpy(rng.rand(n, 1, 8, 8)).float(), "y": torch.from_numpy(rng.rand(n, 2)).float()}


def trained(threads, norm=True, **options):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        net = network(norm)
        train_network(net, noisy, images(300), updates=6, seed=1, batch_size=200, apart=True, **options)
    finally:
        torch.set_num_threads(before)
    return torch.cat([values.flatten().float() for values in net.state_dict().values()])


def test_bits_do_not_depend_on_threads_nor_on_other_trainings():
    alone, state = trained(1), torch.get_rng_state()
    for threads in (2, 3, 4):
        assert torch.equal(trained(threads), alone)
    with ThreadPoolExecutor(2) as pool:
        for together in pool.map(lambda _: trained(2), range(3)):
            assert torch.equal(together, alone)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rows", [3, 64, 130, 200])
@pytest.mark.parametrize("threads", [1, 2])
def test_parts_add_up_to_the_gradient_of_the_whole_batch(rows, threads):
    net, batch = network(norm=False).double().train(), {name: v.double() for name, v in images(rows).items()}

    def loss(module, rows, progress):
        return (module(rows["x"]) - rows["y"]).square().sum(1) * progress

    with Parts(net, loss, 200, 0, bfloat16=False, threads=threads) as parts:
        total = parts.backward(batch, 0.5)
    found = [parameter.grad.clone() for parameter in net.parameters()]
    whole = loss(net, batch, 0.5).mean()
    torch.testing.assert_close(total, whole.detach())
    torch.testing.assert_close(found, list(torch.autograd.grad(whole, list(net.parameters()))))


def test_parts_normalise_by_their_own_rows_and_share_what_they_saw():
    net, batch = network(norm=True).train(), images(128)
    with Parts(net, noisy, 200, 0, bfloat16=False, threads=1) as parts:
        parts.backward(batch, 1.0)
        seen = [net[0](parts_of + 0.1 * torch.randn(parts_of.shape, generator=torch.Generator().manual_seed(i)))
                for i, parts_of in enumerate(batch["x"].split(64))]
        mean = torch.stack([part.mean((0, 2, 3)) for part in seen]).mean(0)
        torch.testing.assert_close(net[1].running_mean, 0.1 * mean)
        for copy in parts.copies:
            assert torch.equal(copy[1].running_var, net[1].running_var)
            assert all(a is b for a, b in zip(copy.parameters(), net.parameters(), strict=True))


def test_an_error_of_a_part_is_the_caller_s():
    def broken(module, rows, progress):
        raise ArithmeticError("no loss")

    with pytest.raises(ArithmeticError, match="no loss"):
        train_network(network(True), broken, images(300), updates=2, seed=0, batch_size=200, apart=True)
