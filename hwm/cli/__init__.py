"""The `hwm` command: one function per verb.  Only the chosen verb's libraries are imported."""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Callable
from importlib import import_module  # noqa: TID251, for the modules of the verbs
from io import TextIOWrapper

from hwm.work.allowance import settle_threads
from hwm.work.signals import Stopped

VERBS = {
    "demo": ("data", "simulate, tokenize, train, evaluate, report: the whole line in minutes"),
    "simulate": ("data", "write a dataset of the built-in robot in the 1X v2.0 raw layout"),
    "data": ("data", "check or describe a dataset"),
    "tokenize": ("data", "turn raw video into tokens or latents"),
    "train": ("train", "train a recipe"),
    "evaluate": ("use", "score a run on held-out data and write its report"),
    "predict": ("use", "write a video of what a run predicts"),
    "experiment": ("use", "train and score what a paper's table asks for, and lay it out"),
    "submit": ("use", "write a challenge submission"),
    "export": ("use", "publish a trained tokenizer or Wan model as a folder of its own"),
    "recipes": ("train", "list the recipes, or reckon what one needs"),
    "doctor": ("train", "check a machine, a dataset and a recipe together before hours are spent"),
    "text-embedding": ("use", "compute the constant text that Wan models are trained with"),
}
"""The module of every verb, and what it does."""


def usage() -> str:
    """What `hwm --help` prints."""
    lines = [f"  {verb:<10} {what}" for verb, (_, what) in VERBS.items()]
    return "\n".join(["usage: hwm VERB [options]        hwm VERB --help explains one", "", *lines, ""])


def function_of(verb: str) -> Callable[..., int]:
    """The function of a verb; imports its module."""
    return getattr(import_module(f"hwm.cli.{VERBS[verb][0]}"), verb.replace("-", "_"))


def main(arguments: list[str] | None = None) -> int:
    """Run one verb, of the command line by default.  A mistake of the user is one line on standard error and exit code 2."""
    if arguments is not None:
        return _run(arguments)
    settle_threads()
    if sys.stderr is not None:
        faulthandler.enable()  # a file cut short under a memory map kills the process: then at least say where
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: a path may have bytes that are no text
    code = _run(sys.argv[1:])
    if code > 128:  # stopped, and nearly gone: one more Ctrl-C must not change how it ended
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from hwm import __version__
        print(__version__)
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        from hwm.config import nearest
        hint = nearest(verb, VERBS) or "hwm --help lists the verbs"
        print(f"hwm: error: no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    import tyro

    # `--json` is what people type; the function's parameter has another name because json is a module here.
    rest = ["--json-output" if a == "--json" else a for a in arguments[1:]]
    try:
        if verb == "experiment":  # which options there are depends on its first word
            return function_of(verb)(rest)
        config = tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes
        return tyro.cli(function_of(verb), args=rest, prog=f"hwm {verb}", config=config) or 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Stopped as stop:
        print(f"hwm {verb}: {stop}", file=sys.stderr)
        return 128 + stop.signal
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        return 128 + signal.SIGPIPE
    except (ValueError, OSError) as error:
        print(f"hwm {verb}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
