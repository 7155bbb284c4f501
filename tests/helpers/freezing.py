"""Networks, and what they answer, for the tests of freeze_for_search."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cfexplain.nets.autoencoders import AutoencoderNet
from cfexplain.nets.classifiers import ClassifierNet, cnn, mlp
from cfexplain.nets.gan import Discriminator, GANNet


class LeNet(nn.Module):
    """The forward of a tutorial: functional ReLU and pooling, dropout, a view."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.Conv2d(6, 16, 5)
        self.dense, self.drop, self.last = nn.Linear(16 * 5 * 5, 30), nn.Dropout(), nn.Linear(30, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.first(x))), 2)
        x = F.max_pool2d(torch.relu(self.second(x)), 2)
        x = self.drop(F.relu(self.dense(x.view(x.size(0), -1))))
        return F.log_softmax(self.last(F.dropout(x, training=self.training)), dim=1)


class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu, self.pool = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(True), nn.MaxPool2d(2)
        self.last = nn.Linear(27, 3)

    def forward(self, x):
        x = self.pool(self.relu(self.norm(self.conv(x))))
        return self.last(x.view(x.size(0), -1))


class Branching(nn.Module):
    """Control flow on values, around a plain stack."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        h = self.body(x) if x.mean() > -100 else x
        first = self.body[1](self.body[0](x))  # looks into the stack, too
        return self.head(h.view(len(h), 8, -1).mean(2) + first.view(len(h), 8, -1).mean(2))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        out = self.norm(self.conv(x))
        out += x
        return F.relu(out, inplace=True)


class Augmented(nn.Module):
    """`identity` is another name of what `+=` writes to."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x):
        h = identity = self.norm(self.conv(x))
        h += x
        h *= 2
        return h + identity


def resnet():
    return pytest.importorskip("torchvision").models.resnet18(num_classes=4)


def stack(layers):
    return lambda: nn.Sequential(*layers())


# name -> (network, shape of a sample, BatchNorms folded, ReLUs swapped)
NETS = {
    "cnn": (lambda: cnn((3, 20, 28), 10), (3, 20, 28), 3, 0),
    "mlp": (lambda: mlp(7, 3), (7,), 0, 0),
    "classifier of images": (lambda: ClassifierNet((1, 28, 28), 10), (1, 28, 28), 3, 0),
    "classifier of tables": (lambda: ClassifierNet((9,), 2), (9,), 0, 0),
    "encoder": (lambda: AutoencoderNet((1, 28, 28), 8, variational=True).encoder, (1, 28, 28), 3, 0),
    "decoder": (lambda: AutoencoderNet((1, 28, 28), 8, variational=True).decoder, (8,), 2, 0),
    "decoder with cropping": (lambda: AutoencoderNet((3, 33, 45), 8, variational=False).decoder, (8,), 2, 0),
    "decoder of tables": (lambda: AutoencoderNet((9,), 4, variational=True).decoder, (4,), 0, 0),
    "GAN": (lambda: GANNet((3, 32, 32), 8, width=8).decoder, (8,), 3, 0),
    "discriminator": (lambda: Discriminator((1, 16, 16), width=8), (1, 16, 16), 0, 0),
    "written and viewed": (Viewed, (2, 8, 8), 1, 1),
    "LeNet": (LeNet, (1, 28, 28), 1, 2),
    "ResNet-18": (resnet, (3, 32, 32), 20, 1),
    "branching": (Branching, (3, 9, 9), 1, 1),
    "residual": (stack(lambda: (Residual(), Residual(), nn.Flatten(), nn.Linear(100, 3))), (4, 5, 5), 2, 0),
    "augmented": (Augmented, (2, 6, 6), 1, 0),
    "1-d": (stack(lambda: (nn.Conv1d(2, 6, 3, stride=2), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.MaxPool1d(2),
                           nn.ConvTranspose1d(6, 4, 3, groups=2), nn.BatchNorm1d(4))), (2, 21), 2, 1),
    "3-d": (stack(lambda: (nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4, affine=False), nn.ReLU(), nn.MaxPool3d(2),
                           nn.ConvTranspose3d(4, 2, 2), nn.BatchNorm3d(2))), (1, 6, 6, 6), 2, 1),
    "dense": (stack(lambda: (nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Identity(), nn.Linear(8, 3),
                             nn.BatchNorm1d(3), nn.BatchNorm1d(3))), (5,), 2, 0),
    "groups": (stack(lambda: (nn.Conv2d(4, 8, 3, groups=2, dilation=2, padding="same", bias=False), nn.BatchNorm2d(8),
                              nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.AdaptiveMaxPool2d(2))), (4, 8, 8), 2, 0),
    "transposed groups": (stack(lambda: (nn.ConvTranspose2d(4, 6, 3, 2, groups=2, output_padding=1), nn.BatchNorm2d(6),
                                         nn.ReLU(), nn.AdaptiveMaxPool2d(2))), (4, 4, 4), 1, 1),
    "BatchNorm first": (stack(lambda: (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Softplus(),
                                       nn.BatchNorm2d(6), nn.Conv2d(6, 2, 3, padding=1, padding_mode="reflect"))),
                        (4, 8, 8), 3, 0),
    "BatchNorm between dense layers": (stack(lambda: (nn.BatchNorm1d(5), nn.Linear(5, 4), nn.Tanh(), nn.BatchNorm1d(4),
                                                      nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))), (5,), 2, 0),
}


def randomised(net, seed=0):
    """`net` with statistics and scales that make folding matter, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for part in net.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.5, generator=generator)
            part.running_var.uniform_(0.3, 2, generator=generator)
            if part.affine:
                part.weight.data.uniform_(-1.5, 1.5, generator=generator)
                part.bias.data.normal_(0, 0.5, generator=generator)
        elif isinstance(part, ClassifierNet):
            part.mean.uniform_(-1, 1, generator=generator)
            part.scale.uniform_(0.5, 2, generator=generator)
    return net.eval()


def made(name):
    make, shape, *_ = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomised(make()), torch.randn(5, *shape)


def response(net, x):
    """Outputs, and the input gradient of a fixed linear form of them."""
    x = x.detach().clone().requires_grad_()
    out = net(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out)
    return out.detach(), torch.autograd.grad((out * weights).sum(), x)[0]


def error(got, expected):
    """Of the number that is furthest off, relative to the largest."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).abs().max() / expected.abs().max())


def distance(got, expected):
    return float((got.double() - expected.double()).norm() / expected.double().norm())
