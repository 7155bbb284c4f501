"""Reproduce Diffeomorphic Counterfactuals: ``python -m benchmarks.diffeomorphic [names] [--quick]``.

Networks are trained once and kept in benchmarks/.cache; everything from an empty cache takes about three hours on two
cores, ``--quick`` (tiny trainings: a check that all of it runs, not a result) under five minutes.
"""

from __future__ import annotations

import argparse
import time

from benchmarks._common import store
from benchmarks.diffeomorphic import crowd, helix, images

EXPERIMENTS = {"helix": helix.run, "mnist": lambda quick: images.run("mnist", quick),
               "approximate": lambda quick: images.run("approximate", quick),
               "faces": lambda quick: images.run("faces", quick), "xray": lambda quick: images.run("xray", quick),
               "crowd": crowd.run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(EXPERIMENTS), help=f"of {', '.join(EXPERIMENTS)}; default: all")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(EXPERIMENTS))
    if unknown:
        parser.error(f"unknown experiment {unknown[0]!r}; choose of {', '.join(EXPERIMENTS)}")
    for name in options.names:
        started = time.perf_counter()
        result = EXPERIMENTS[name](options.quick)
        if options.quick:
            print(f"[{name} runs: {time.perf_counter() - started:.0f} s; a check, so nothing is stored]", flush=True)
        else:
            store(f"diffeomorphic_{name}", {**result, "seconds": time.perf_counter() - started})


if __name__ == "__main__":
    main()
