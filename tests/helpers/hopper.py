"""Kernels compiled for Hopper on any machine, and what the binary says of them."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

# `compiled_for_hopper` of a kernel: what Triton compiled, and registers, stack, local memory and machine code of the binary
PRELUDE = r"""
import json, pathlib, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

def compiled_for_hopper(kernel, kind, constexprs, fusion):
    names = kernel.arg_names
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.endswith("_ptr")}
    source = ASTSource(kernel, signature={name: kind(name) for name in names}, constexprs=constexprs, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32),
                              options={"num_warps": 4, "enable_fp_fusion": fusion})
    dump = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (subprocess.run([dump, flag, file.name], capture_output=True, text=True, check=True).stdout
                       for flag in ("--dump-resource-usage", "-sass"))
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL"))
    return compiled, code, dict(registers=registers, stack=stack, local=local, shared=compiled.metadata.shared)
"""


def reports(script, cache, *arguments):
    """What `script`, which follows `PRELUDE`, prints: a JSON object a line.

    In a process of its own: here kernels may be decorated for the interpreter, and those cannot be compiled.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    run = subprocess.run([sys.executable, "-c", PRELUDE + script, *arguments], capture_output=True, text=True,
                         env=environment)
    assert run.returncode == 0, run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    for report in found:
        print(report)
    return found


def by_triton_3_8():
    """Whether Triton 3.8 compiles, which allocates some registers worse than 3.6 and 3.9 do: it is held to what it needs."""
    return version("triton").startswith("3.8.")


def spills(report):
    """Bytes of stack and local memory, and instructions that load and store registers there: all 0 without a spill."""
    return tuple(report[name] for name in ("stack", "local", "LDL", "STL"))
