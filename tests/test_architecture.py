"""Rules that keep the package as it is drawn."""

import subprocess
import sys


def test_importing_the_package_leaves_heavy_packages_alone():
    heavy = ("matplotlib", "lpips", "torchvision", "captum", "torchmetrics")
    code = f"import sys, cfexplain; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
