"""The one-launch search compiled for Hopper, on any machine: registers, spills and matrix instructions of the binary."""

import pytest
from hopper import by_triton_3_8, reports, spills

pytest.importorskip("triton", reason="needs Triton: pip install triton")

COMPILE = r"""
import torch
from cfexplain.ops.search_step import StepOptions
from cfexplain.ops.table_search import Dense, Network, TableSearch
from cfexplain.ops.table_search.kernel import table_search_kernel
from cfexplain.ops.table_search.triton import BLOCK, constants

COUNTS = "waited best_rank since_best count began attempt refined row head out_rank out_steps target".split()
ANSWERS = "finished done valid out_finished".split()
layer = (Dense(torch.zeros(16, 16), torch.zeros(16)),)
# PLACE as it is by default on a table of 16 columns, with rules; the widths of its networks are not compiled in
search = TableSearch(16, 16, 2, Network(torch.zeros(16), torch.ones(16), layer), layer, residual=True,
                     held=torch.zeros(16).bool(), low=torch.zeros(16), high=torch.ones(16), opinions=(layer,),
                     distance=True, opinion=True)
constexprs = constants(search, StepOptions(refine=4), sys.argv[1], BLOCK) | {"DENSITY": int(sys.argv[2])}

def kind(name):
    if name in constexprs:
        return "constexpr"
    if not name.endswith("_ptr"):
        return "fp32" if name in ("log_constant", "inverse_bound", "log_odds_slack", "density_slack") else "i32"
    short = name.removesuffix("_ptr")
    return ("*i64" if short in COUNTS else "*i1" if short in ANSWERS else "*i32" if short in ("plan", "products") else
            "*fp32")

compiled, code, usage = compiled_for_hopper(table_search_kernel, kind, constexprs, fusion=False)
count = {name: len(re.findall(rf"\b{name}\b", code)) for name in ("HMMA", "LDGSTS", "LDL", "STL")}
print(json.dumps(dict(usage, instructions=len(re.findall(r"/\*[0-9a-f]{4,5}\*/", code)), **count)))
"""


@pytest.mark.parametrize(("precision", "density"), [
    ("float32", 0), pytest.param("float32", 1, marks=pytest.mark.slow)])
def test_the_kernel_compiles_for_hopper_without_a_spill(precision, density, tmp_path):
    """Without the flow, and with it."""
    (report,) = reports(COMPILE, tmp_path, precision, str(density))
    worse = by_triton_3_8()
    assert spills(report) == (((160, 0, 54, 36), (192, 0, 89, 46))[density] if worse else (0, 0, 0, 0)), report
    assert report["registers"] <= 255 and report["shared"] <= (61_440 if worse else 41_000), report
    assert report["HMMA"] > 0 and report["LDGSTS"] > 0, report  # matrix instructions, weights copied ahead
    assert report["instructions"] <= (18_200 if worse else 18_000), report
