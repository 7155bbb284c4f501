"""The parser of the ``cfexplain`` command, and its exit status."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from cfexplain import __version__

__all__ = ["main"]

_CONFIG = """\
  [data]
  path = "faces"          # faces/smiling/*.jpg, faces/serious/*.jpg; or an .npz, or a .csv with label = "column"
  size = [64, 64]

  [classifier]            # leave this out, and one is trained
  file = "my_net.pt2"     # torch.export, TorchScript, or: import = "my_package.nets:make_net", weights = "net.safetensors"

  [explainer]
  method = "place"        # diffeomorphic, revise, clarity, prototype, class_direction, leap, scan, gradient
  random_state = 0        # any other entry is a parameter of the method's class
"""
_EPILOG = f"""\
A first session, on a folder of images with one subfolder a class:

  cfexplain fit faces/ --out smiles.safetensors
  cfexplain explain smiles.safetensors new_faces/ --target smiling --out results/

results/report.html shows what was found. For a model of your own, `cfexplain fit config.toml`, with this config.toml:

{_CONFIG}
exit status: 0 done; 1 something that was passed is wrong, and the message says what; 2 the command line itself;
130 interrupted (explain goes on where it was when it is called again).
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print(f"cfexplain {options.command}: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a terminal is shown what is wrong, not where in the code it was found
        if options.debug:
            traceback.print_exc()
        kind = "" if isinstance(error, (ValueError, TypeError, OSError, ImportError)) else f"{type(error).__name__}: "
        print(f"cfexplain {options.command}: {kind}{error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cfexplain", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EPILOG,
        description="Counterfactual explanations: what would have to change for the model to say something else?")
    parser.add_argument("--version", action="version", version=f"cfexplain {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(name: str, run: Callable[[Any, argparse.Namespace], int], help: str,
            epilog: str = "") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", epilog=epilog,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        # what a command needs is imported when it runs: --help answers at once
        command.set_defaults(run=lambda options: run(import_module("cfexplain.cli.commands"), options))
        command.add_argument("--debug", action="store_true", help="show where in the code an error came from")
        return command

    demo = add("demo", lambda commands, o: commands.run_demo(o.out, o.seed, o.quiet),
               "train, explain and draw on the digits bundled with scikit-learn (half a minute on 2 cores)")
    demo.add_argument("--out", type=Path, default=Path("cfexplain-demo"), help="folder for the picture and the table")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--quiet", action="store_true", help="no progress bars")

    fit = add("fit", lambda commands, o: commands.run_fit(o),
              "learn from training data what counterfactuals need, as a config file says, and save it",
              f"a config file, in TOML:\n\n{_CONFIG}")
    fit.add_argument("config", type=Path,
                     help="a TOML file: [data], [explainer] and, for a model of yours, [classifier]; or the training data "
                     "alone: a folder of images with one subfolder a class, an .npz, or a .csv")
    fit.add_argument("--out", type=Path, required=True, help="the file to write (.safetensors)")
    fit.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
                     help="replace one entry of the config file, for example --set explainer.training_budget=0.1")
    fit.add_argument("--quiet", action="store_true", help="no progress bars")

    explain = add("explain", lambda commands, o: commands.run_explain(o),
                     "explain images or rows with a saved explainer")
    _add_model(explain)
    _add_data(explain)
    explain.add_argument("--out", type=Path, required=True, help="folder for results; an interrupted call goes on there")
    explain.add_argument("--path", action="store_true", help="keep the path of each search: a slider in the report")
    explain.add_argument("--answers", type=int, default=1, metavar="K", help="so many different answers for each row")
    explain.add_argument("--time-limit", type=float, default=None, metavar="SECONDS",
                         help="stop after so many seconds; the same command goes on after what is finished")
    explain.add_argument("--region", default=None, metavar="WHERE",
                         help="pixels that may change: TOP,LEFT,BOTTOM,RIGHT, a picture that marks them, or auto")
    explain.add_argument("--jobs", type=int, default=None, metavar="N", help="processes; the results are the same")
    explain.add_argument("--block-size", type=int, default=256, metavar="N", help="rows a file of results (default: 256)")
    explain.add_argument("--quiet", action="store_true", help="no progress bar and no summary")

    evaluate = add("evaluate", lambda commands, o: commands.run_evaluate(o),
                      "compare saved explainers on the same images or rows, failures included")
    evaluate.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="files that `cfexplain fit` wrote")
    _add_classifier(evaluate)
    _add_data(evaluate, option=True)
    evaluate.add_argument("--out", type=Path, default=None, help="also write the table here: .md, .csv or .html")
    evaluate.add_argument("--metrics", nargs="+", default=None, metavar="NAME", help="default: all")
    evaluate.add_argument("--answers", type=int, default=1, metavar="K", help="so many different answers for each row")
    evaluate.add_argument("--jobs", type=int, default=None, metavar="N")

    report = add("report", lambda commands, o: commands.run_report(o),
                    "write one HTML file that shows results row by row, to sort and filter")
    report.add_argument("results", type=Path, help="a folder that `cfexplain explain` wrote, or a saved result")
    report.add_argument("--out", type=Path, required=True, help="the HTML file to write")
    report.add_argument("--model", type=Path, default=None, help="the explainer, to decode search paths for the slider")
    _add_classifier(report)
    report.add_argument("--max-rows", type=int, default=1000, metavar="N")
    report.add_argument("--title", default="Counterfactuals")

    doctor = commands.add_parser("doctor", help="say what this machine has and what is missing, for a bug report")
    doctor.set_defaults(run=lambda _: import_module("cfexplain.cli.doctor").run_doctor(), debug=False)
    return parser


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, help="a file that `cfexplain fit`, or explainer.save(), wrote")
    _add_classifier(command)


def _add_classifier(command: argparse.ArgumentParser) -> None:
    command.add_argument("--classifier", metavar="FILE or MODULE:NAME", default=None,
                         help="the model that is explained, if it is yours: it is not in the explainer's file")
    command.add_argument("--weights", type=Path, default=None, help="its weights (.safetensors, or .pt with tensors only)")
    command.add_argument("--trust", action="store_true", help="allow --classifier to be a pickle, which can run any code")


def _add_data(command: argparse.ArgumentParser, option: bool = False) -> None:
    about = "a folder of images, an .npz with X, or a .csv"
    if option:
        command.add_argument("--data", type=Path, required=True, help=about)
    else:
        command.add_argument("data", type=Path, help=about)
    command.add_argument("--target", default=None, help="what the model should say: a label; of a regressor a number, "
                         "LOW:HIGH, maximize or minimize. Default: each row's second most probable class")
    command.add_argument("--resize", action="store_true", help="bring images of another size to that of the training data")
