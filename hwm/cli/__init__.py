"""The `hwm` command: one function per verb.  Only the chosen verb's libraries are imported."""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Callable

from hwm.cli.data import data, demo, simulate, tokenize
from hwm.cli.train import doctor, recipes, train
from hwm.cli.use import evaluate, experiment, export, predict, submit, text_embedding
from hwm.work.signals import Stopped

VERBS = """\
usage: hwm VERB [options]        hwm VERB --help explains one

  demo       simulate, tokenize, train, evaluate, report: the whole line in minutes
  simulate   write a dataset of the built-in robot in the 1X v2.0 raw layout
  data       check or describe a dataset
  tokenize   turn raw video into tokens or latents
  train      train a recipe
  evaluate   score a run on held-out data and write its report
  predict    write a video of what a run predicts
  experiment train and score what a paper's table asks for, and lay it out
  submit     write a challenge submission
  export     publish a trained tokenizer or Wan model as a folder of its own
  recipes    list the recipes, or reckon what one needs
  doctor     check a machine, a dataset and a recipe together before hours are spent
  text-embedding  compute the constant text that Wan models are trained with
"""

FUNCTIONS: tuple[Callable[..., int], ...] = (
    demo,
    simulate,
    data,
    tokenize,
    train,
    evaluate,
    predict,
    experiment,
    submit,
    export,
    recipes,
    doctor,
    text_embedding,
)


def verb_of(function: Callable[..., int]) -> str:
    """What is typed for a verb's function."""
    return function.__name__.replace("_", "-")


def main(arguments: list[str] | None = None) -> int:
    """Run one verb, of the command line by default.  A mistake of the user is one line on standard error and exit code 2."""
    if arguments is not None:
        return _run(arguments)
    if sys.stderr is not None:
        faulthandler.enable()  # a file cut short under a memory map kills the process: then at least say where
    code = _run(sys.argv[1:])
    if code > 128:  # stopped, and nearly gone: one more Ctrl-C must not change how it ended
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(VERBS, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from hwm import __version__

        print(__version__)
        return 0
    functions = {verb_of(function): function for function in FUNCTIONS}
    verb = arguments[0]
    if verb not in functions:
        import difflib

        near = difflib.get_close_matches(verb, functions, 1)
        hint = f"did you mean {near[0]!r}?" if near else "hwm --help lists the verbs"
        print(f"hwm: error: no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    import tyro

    # `--json` is what people type; the function's parameter has another name because json is a module here.
    rest = ["--json-output" if a == "--json" else a for a in arguments[1:]]
    try:
        if verb == "experiment":  # which options there are depends on its first word
            return experiment(rest)
        config = tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes
        return tyro.cli(functions[verb], args=rest, prog=f"hwm {verb}", config=config) or 0
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
