"""What lacks is named with the one command that gets it, and nothing that works is replaced for it."""

import sys

import pytest

from cfexplain.foundation.optional import optional_import


def test_what_is_not_installed_is_installed_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as where it is not installed
    with pytest.raises(ImportError, match=r"to_frame\(\) needs .*'pandas', which is not installed: pip install pandas$"):
        optional_import("pandas", "to_frame()")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)  # which pip calls by another name
    with pytest.raises(ImportError, match="pip install torch-fidelity$"):
        optional_import("torch_fidelity", "FID")


@pytest.mark.parametrize(("raised", "fix"), [
    ("operator torchvision::nms does not exist", "Torch and torchvision must be built for each other: `cfexplain doctor`"),
    ("libfoo.so: cannot open shared object file", "pip install --upgrade broken_here")])
def test_what_is_broken_is_told_by_the_doctor(monkeypatch, tmp_path, raised, fix):
    (tmp_path / "broken_here.py").write_text(f"raise RuntimeError({raised!r})", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=f"LPIPS needs the package 'broken_here'.*{raised}.*{fix}"):
        optional_import("broken_here", "LPIPS")


def test_what_a_package_itself_lacks_is_not_taken_for_the_package(monkeypatch, tmp_path):
    (tmp_path / "half_here.py").write_text("import certainly_not_here", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="'half_here', which could not be imported .*certainly_not_here"):
        optional_import("half_here", "this")
