"""The flow kernel compiled for Hopper, on any machine: registers, spills, shared memory and matrix instructions."""

import pytest

from ops.hopper import reports

pytest.importorskip("triton", reason="needs Triton: pip install triton")

COMPILE = r"""
from cfexplain.ops.coupling_flow._kernel import coupling_flow_kernel
from cfexplain.ops.coupling_flow.triton import constants, descriptor_blocks

precision, half, gradient = sys.argv[1], 32, True
constexprs = constants(precision, layers=8, half=half, hidden=256, classes=10, gradient=gradient)
blocks = descriptor_blocks(precision, half, 256)
element = "bf16" if precision == "bfloat16" else "fp32"

def kind(name):
    if name in constexprs:
        return "constexpr"
    if name in blocks:
        return f"tensordesc<{element}[{blocks[name][0]}, {blocks[name][1]}]>"
    if name.endswith("_ptr"):
        return {"c_ptr": "*i64", "columns_ptr": "*i64", "bits_ptr": "*i8"}.get(name, "*fp32")
    return "fp32" if name in ("log_constant", "inverse_bound") else "i32"

compiled, code, usage = compiled_for_hopper(coupling_flow_kernel, kind, constexprs, fusion=True)
count = {name: len(re.findall(rf"\b{name}\b", code)) for name in ("HGMMA", "HMMA", "FFMA", "UTMALDG", "LDL", "STL")}
layouts = set(re.findall(r"nvidia_mma<.*?warpsPerCTA = (\[.*?\])", compiled.asm["ttgir"]))
print(json.dumps(dict(precision=precision, **usage, layouts=sorted(layouts), **count)))
"""

# Bytes of shared memory, of 227 KB, and matrix instructions, as compiled by Triton 3.6 and 3.9
SHARED = {"float32": 98_488, "tf32": 57_464, "bfloat16": 123_992}
MATRIX = {"float32": 100, "tf32": 36, "bfloat16": 28}


@pytest.mark.parametrize("precision", ["float32", *(pytest.param(p, marks=pytest.mark.slow) for p in ("tf32", "bfloat16"))])
def test_the_kernel_compiles_for_hopper_without_a_spill(precision, tmp_path):
    """d = 64, hidden layers of 256 and 256, eight couplings."""
    (report,) = reports(COMPILE, tmp_path, precision)
    assert report["stack"] == report["local"] == report["LDL"] == report["STL"] == 0, report
    assert report["registers"] <= 255 and report["shared"] <= 1.25 * SHARED[precision], report
    # every product by the instructions of one warp group, whose warps share no rows; weights come by TMA
    assert 0 < report["HGMMA"] <= MATRIX[precision] and report["HMMA"] == 0, report
    assert report["layouts"] == ["[4, 1]"] and report["UTMALDG"] > 0, report

