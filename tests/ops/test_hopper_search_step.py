"""The step kernel compiled for Hopper, on any machine: registers, spills and shared memory, read from the binary."""

import pytest
from hopper import reports

pytest.importorskip("triton", reason="needs Triton: pip install triton")

COMPILE = r"""
from cfexplain.ops.search_step import ATTEMPTS
from cfexplain.ops.search_step.triton import block_shape, step_kernel

COUNTS = "waited best_rank since_best count began attempt refined row head out_rank out_steps".split()
ANSWERS = "finished done valid out_finished".split()

def kind(name):
    if name in constants:
        return "constexpr"
    if not name.endswith("_ptr"):
        return "i32"
    short = name.removesuffix("_ptr")
    return "*i64" if short in COUNTS else "*i1" if short in ANSWERS else "*fp32"

for d in (64, 784):
    for adam in (True, False):
        rows, columns = block_shape(d)
        constants = dict(D=d, ADAM=adam, CONVERGED=False, STALLS=True, REFINES=True, ATTEMPT_COUNT=len(ATTEMPTS),
                         ROWS=rows, COLUMNS=columns)
        compiled, code, usage = compiled_for_hopper(step_kernel, kind, constants, fusion=False)
        narrow = re.findall(r"arith\.muli .*i32", compiled.asm["ttir"])
        print(json.dumps(dict(
            d=d, update="adam" if adam else "normalized", **usage, spills=len(re.findall(r"\b(?:LDL|STL)\b", code)),
            instructions=len(re.findall(r"/\*[0-9a-f]{4}\*/", code)), narrow=len(narrow))))
"""


def test_the_kernel_compiles_for_hopper_without_a_spill(tmp_path):
    found = reports(COMPILE, tmp_path)
    assert [(report["d"], report["update"]) for report in found] == [
        (64, "adam"), (64, "normalized"), (784, "adam"), (784, "normalized")]
    for report in found:
        assert report["instructions"] > 200  # the binary was read
        assert report["stack"] == report["local"] == report["spills"] == 0, report
        assert report["registers"] <= 128 and report["shared"] <= 1024, report  # four blocks of 128 threads and more
        assert report["narrow"] == 0, report  # no product of 32-bit integers: offsets may pass 2**31
