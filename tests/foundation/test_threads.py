"""One torch thread inside, the number of each Python thread as it was outside; and turns for who draws random numbers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.random import seeded_torch
from cfexplain.foundation.threads import one_thread, side_by_side
from cfexplain.foundation.tiles import in_tiles


def in_new_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(60)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_thread_gives_the_threads_back(three_threads):
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 3 and in_new_thread(torch.get_num_threads) == 3


def test_other_python_threads_keep_their_number(three_threads):
    started, inside, leave = threading.Event(), threading.Event(), threading.Event()

    def other():
        torch.get_num_threads()  # torch now knows of this thread
        started.set()
        assert inside.wait(60)
        during = torch.get_num_threads()
        with one_thread():
            leave.set()
        return during, torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        numbers = pool.submit(other)
        assert started.wait(60)
        with one_thread():
            inside.set()
            assert leave.wait(60)
            assert numbers.result(60) == (3, 3) and torch.get_num_threads() == 1
            assert in_new_thread(torch.get_num_threads) == 3  # one that begins meanwhile
    assert torch.get_num_threads() == 3


def test_tiles_are_computed_with_one_thread(three_threads):
    assert in_tiles(lambda x: x * torch.get_num_threads(), torch.ones(70)).eq(1).all()
    assert torch.get_num_threads() == 3


def test_threads_that_draw_take_turns():
    barrier, state = threading.Barrier(4), torch.get_rng_state()

    def draw(seed):
        barrier.wait(60)
        with seeded_torch(seed):
            return torch.cat([nn.Linear(8, 8).weight for _ in range(50)]).detach()

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(draw, range(4)))
    barrier = threading.Barrier(1)
    for seed, drawn in enumerate(together):
        assert torch.equal(drawn, draw(seed))
    assert torch.equal(torch.get_rng_state(), state)


def test_networks_that_share_a_part_get_their_flags_back_from_the_last():
    body, heads = nn.Sequential(nn.Linear(3, 3), nn.Dropout()), [nn.Linear(3, 2), nn.Linear(3, 2)]
    first, second = (nn.Sequential(body, head) for head in heads)
    body[0].bias.requires_grad_(False)

    def flags(net):
        return [part.training for part in net.modules()], [p.requires_grad for p in net.parameters()]

    before, loan = [flags(net) for net in (first, second)], frozen(second)
    with frozen(first):
        loan.__enter__()
    assert not any(sum(flags(second), []))  # the second block still computes
    assert flags(heads[0]) == ([True], [True, True])  # which has nothing to do with it
    loan.__exit__(None, None, None)
    assert [flags(net) for net in (first, second)] == before


@pytest.mark.parametrize("n", [8])
def test_many_threads_borrow_overlapping_networks(n):
    parts = [nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)) for _ in range(4)]
    nets = [nn.Sequential(parts[i % 4], parts[(i + 1) % 4]) for i in range(n)]
    x = torch.from_numpy(np.random.RandomState(0).randn(5, 4)).float()
    with torch.no_grad():
        expected = [net.eval()(x) for net in nets]
    for net in nets:
        net.train()

    def compute(i):
        for _ in range(50):
            with frozen(nets[i]), torch.no_grad():
                assert torch.equal(nets[i](x), expected[i])

    with ThreadPoolExecutor(n) as pool:
        list(pool.map(compute, range(n)))
    assert all(part.training for net in nets for part in net.modules())
    assert all(p.requires_grad for net in nets for p in net.parameters())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_work_side_by_side_comes_back_in_order(threads):
    assert side_by_side(lambda i: i * i, range(7), threads, stop=lambda: None) == [i * i for i in range(7)]
    assert side_by_side(abs, [], threads, stop=lambda: None) == []


def test_two_threads_work_at_the_same_time():
    both = threading.Barrier(2)
    assert side_by_side(lambda i: both.wait(60) >= 0, range(2), 2, stop=lambda: None) == [True, True]


@pytest.mark.parametrize("failing", [0, 1])
def test_where_one_fails_the_others_are_told_and_nothing_more_is_begun(failing):
    stopped, begun, both = threading.Event(), [], threading.Barrier(2)

    def work(i):
        begun.append(i)
        if i < 2:
            both.wait(60)
        if i == failing:
            raise KeyError(i)
        assert stopped.wait(60)

    with pytest.raises(KeyError):
        side_by_side(work, range(9), 2, stop=stopped.set)
    assert sorted(begun) == [0, 1]
