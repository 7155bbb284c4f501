"""Networks with noise on their weights, made without touching the global generator."""

import torch


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def perturbed(module, size=0.15, seed=0):
    """`module` with noise on every weight: couplings start at the identity, where every inverse is right."""
    def noise():
        with torch.no_grad():
            for parameter in module.parameters():
                fan = parameter.shape[1] if parameter.ndim == 2 else 1  # keeps mixing matrices well conditioned
                parameter.add_(size * fan**-0.5 * torch.randn(parameter.shape).to(parameter))
    seeded(noise, seed)
    return module.eval()
