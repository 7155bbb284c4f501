"""The step kernel compiled for Hopper, on any machine: registers, spills and shared memory, read from the binary."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs Triton: pip install triton")

# In a process of its own: here kernels may be decorated for the interpreter, and those cannot be compiled.
COMPILE = r"""
import json, pathlib, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cfexplain.ops.search_step import ATTEMPTS
from cfexplain.ops.search_step.triton import block_shape, step_kernel

COUNTS = "waited best_rank since_best count began attempt refined row head out_rank out_steps".split()
ANSWERS = "finished done valid out_finished".split()
dump = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

def kind(name, constants):
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
        names = step_kernel.arg_names
        aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.endswith("_ptr")}
        source = ASTSource(step_kernel, signature={name: kind(name, constants) for name in names},
                           constexprs=constants, attrs=aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32),
                                  options={"num_warps": 4, "enable_fp_fusion": False})
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            usage, code = (subprocess.run([dump, flag, file.name], capture_output=True, text=True, check=True).stdout
                           for flag in ("--dump-resource-usage", "-sass"))
        registers, stack, local = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL"))
        narrow = re.findall(r"arith\.muli .*i32", compiled.asm["ttir"])
        print(json.dumps(dict(
            d=d, update="adam" if adam else "normalized", registers=registers, stack=stack, local=local,
            shared=compiled.metadata.shared, spills=len(re.findall(r"\b(?:LDL|STL)\b", code)),
            instructions=len(re.findall(r"/\*[0-9a-f]{4}\*/", code)), narrow=len(narrow))))
"""


def test_the_kernel_compiles_for_hopper_without_a_spill(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    reports = [json.loads(line) for line in run.stdout.splitlines()]
    assert [(report["d"], report["update"]) for report in reports] == [
        (64, "adam"), (64, "normalized"), (784, "adam"), (784, "normalized")]
    for report in reports:
        print(report)
        assert report["instructions"] > 200  # the binary was read
        assert report["stack"] == report["local"] == report["spills"] == 0, report
        assert report["registers"] <= 128 and report["shared"] <= 1024, report  # four blocks of 128 threads and more
        assert report["narrow"] == 0, report  # no product of 32-bit integers: offsets may pass 2**31
