"""Data to try things on: bundled, or read from a folder of yours in the layout in which they are published.

A loader looks at its ``path`` argument; without one at ``$CFEXPLAIN_DATA``, then at ``data_home`` (default
``~/.cache/cfexplain``). Nothing is ever downloaded behind your back: ``download=True``, where a loader has it, asks for it;
what comes is checked against the published checksum and written into ``data_home``.
"""

from cfexplain.datasets.celeba import CELEBA_ATTRIBUTES, load_celeba
from cfexplain.datasets.chest_xray import load_chest_xray
from cfexplain.datasets.chexpert import load_chexpert
from cfexplain.datasets.files import get_data_home
from cfexplain.datasets.helix import helix_distance, make_helix
from cfexplain.datasets.mall import load_mall
from cfexplain.datasets.small import load_digits_images, load_mnist, load_pneumonia, load_smiles
from cfexplain.datasets.utkface import load_utkface

__all__ = [
    "CELEBA_ATTRIBUTES", "get_data_home", "helix_distance", "load_celeba", "load_chest_xray", "load_chexpert",
    "load_digits_images", "load_mall", "load_mnist", "load_pneumonia", "load_smiles", "load_utkface", "make_helix"]
