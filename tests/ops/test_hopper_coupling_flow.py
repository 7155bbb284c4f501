"""The flow's kernels compiled for Hopper, on any machine: registers, spills, shared memory and matrix instructions."""

import pytest
from hopper import by_triton_3_8, reports, spills

pytest.importorskip("triton", reason="needs Triton: pip install triton")

COMPILE = r"""
from cfexplain.ops.coupling_flow import inverse_kernel, kernel as forward_kernel
from cfexplain.ops.coupling_flow.triton import constants, descriptor_blocks

name, precision, half, gradient = *sys.argv[1:], 32, True
kernel = getattr(forward_kernel if name == "coupling_flow_kernel" else inverse_kernel, name)
constexprs = constants(precision, layers=8, half=half, hidden=256, classes=10, gradient=gradient,
                       inverse=name.startswith("inverse"))
constexprs = {name: value for name, value in constexprs.items() if name in kernel.arg_names}
blocks = descriptor_blocks(precision, half, 256, name.startswith("inverse"))
element = "bf16" if precision == "bfloat16" else "fp32"

def kind(name):
    if name in constexprs:
        return "constexpr"
    if name in blocks:
        return f"tensordesc<{element}[{blocks[name][0]}, {blocks[name][1]}]>"
    if name.endswith("_ptr"):
        return "*i64" if name.endswith(("c_ptr", "columns_ptr", "zero_ptr")) else "*i8" if name == "bits_ptr" else "*fp32"
    return "fp32" if name in ("log_constant", "inverse_bound") else "i32"

compiled, code, usage = compiled_for_hopper(kernel, kind, constexprs, fusion=True)
count = {name: len(re.findall(rf"\b{name}\b", code)) for name in ("HGMMA", "HMMA", "FFMA", "UTMALDG", "LDL", "STL")}
layouts = set(re.findall(r"nvidia_mma<.*?warpsPerCTA = (\[.*?\])", compiled.asm["ttgir"]))
print(json.dumps(dict(kernel=name, precision=precision, **usage, layouts=sorted(layouts), **count)))
"""

# Bytes of shared memory, of 227 KB, and matrix instructions, as compiled by Triton 3.6 and 3.9
COMPILED = {
    ("coupling_flow_kernel", "float32"): (98_488, 100), ("coupling_flow_kernel", "tf32"): (57_464, 36),
    ("coupling_flow_kernel", "bfloat16"): (123_992, 28),
    ("inverse_kernel", "float32"): (86_200, 52), ("inverse_kernel", "tf32"): (57_464, 20),
    ("inverse_kernel", "bfloat16"): (74_360, 16),
    ("inverse_vjp_kernel", "float32"): (98_488, 48), ("inverse_vjp_kernel", "tf32"): (49_240, 16),
    ("inverse_vjp_kernel", "bfloat16"): (74_840, 12),
}


@pytest.mark.parametrize(("kernel", "precision"), [
    pytest.param(*which, marks=[pytest.mark.slow] * (which != ("inverse_vjp_kernel", "float32"))) for which in COMPILED])
def test_the_kernel_compiles_for_hopper_without_a_spill(kernel, precision, tmp_path):
    """d = 64, hidden layers of 256 and 256, eight couplings."""
    (report,) = reports(COMPILE, tmp_path, kernel, precision)
    shared, instructions = COMPILED[kernel, precision]
    worse = by_triton_3_8() and (kernel, precision) == ("coupling_flow_kernel", "float32")
    assert spills(report) == ((8, 0, 3, 2) if worse else (0, 0, 0, 0)), report
    assert report["registers"] <= 255 and report["shared"] <= 1.25 * shared, report
    # every product by the instructions of one warp group, whose warps share no rows; weights come by TMA
    assert 0 < report["HGMMA"] <= instructions and report["HMMA"] == 0, report
    assert report["layouts"] == ["[4, 1]"] and report["UTMALDG"] > 0, report
