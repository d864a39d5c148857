"""The `hwm` command: one function per verb.  Only the chosen verb's libraries are imported."""

import faulthandler
import re
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import is_dataclass
from functools import partial
from importlib import import_module  # noqa: TID251, for the modules of the verbs
from inspect import Parameter, signature
from io import StringIO, TextIOWrapper
from typing import Annotated, Any, get_type_hints

from hwm.safe_load.paths import one_line
from hwm.work.allowance import settle_threads
from hwm.work.memory import EXIT_CODE, shortage
from hwm.work.ranges import BadSetting, call_within
from hwm.work.signals import Stopped, ending

VERBS = {
    "demo": ("data", "simulate, train, evaluate, report: the whole line in minutes"),
    "simulate": ("data", "write a dataset of the built-in robot in the 1X v2.0 raw layout"),
    "data": ("data", "check, describe or convert a dataset"),
    "tokenize": ("data", "turn raw video into tokens or latents"),
    "train": ("train", "train a recipe"),
    "evaluate": ("use", "score a run on held-out data and write its report"),
    "predict": ("use", "write a video of what a run predicts"),
    "play": ("interact", "drive a run in the browser, beside what was recorded"),
    "experiment": ("use", "train and score what a paper's table asks for, and lay it out"),
    "submit": ("use", "write a challenge submission"),
    "export": ("use", "publish a run of any family, or a tokenizer, as a folder with a model card"),
    "push": ("use", "send a published folder to the Hugging Face hub"),
    "recipes": ("train", "list the recipes, or reckon what one needs"),
    "doctor": ("train", "check a machine, a dataset and a recipe together before hours are spent"),
    "completion": ("completion", "print a script by which bash or zsh completes verbs, options and recipes"),
    "text-embedding": ("use", "compute the constant text that Wan models are trained with"),
}
"""The module of every verb, and what it does."""
LESS = {
    "demo": "fewer --workers need less, or --size 64",
    "simulate": "fewer --workers need less, or a smaller --size",
    "tokenize": "fewer --workers need less, or a smaller --size",
    "train": "lower train.batch_size and raise train.accumulate as much, which learns the same, or set train.recompute=true",
    "evaluate": "a lower --batch-size needs less",
    "predict": "fewer --frames need less",
    "experiment": "fewer --workers need less",
    "submit": "a lower --batch-size needs less",
}
"""What to lower where memory runs out."""
METAVARS = {"part": "K N", "set": "KEY=VALUE"}
"""What stands for the values of an option on its page of help, where its type does not say enough."""


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
    who = " ".join(["hwm", *sys.argv[1:2]])
    with ending(who) as stop:
        code = _run(sys.argv[1:])
    if stop.signal and code <= 128:  # too late for the work, but not for what follows in a script
        print(f"{who}: {Stopped(stop.signal)}", file=sys.stderr)
        code = 128 + stop.signal
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
    try:
        if verb == "experiment":  # which options there are depends on its first word
            return function_of(verb)(arguments[1:])
        return parsed(function_of(verb), arguments[1:], prog=f"hwm {verb}")() or 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Stopped as stop:
        print(f"hwm {verb}: {stop}", file=sys.stderr)
        return 128 + stop.signal
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        return 128 + signal.SIGPIPE
    except Exception as error:
        if short := shortage(error):
            less = LESS.get(verb, "close other programs, or use a machine with more")
            print(f"hwm {verb}: error: {short}; {less}", file=sys.stderr)
            return EXIT_CODE
        if not isinstance(error, ValueError | OSError):
            raise
        told = one_line(error)
        if isinstance(error, BadSetting) and "." not in error.name:  # an option, where train.steps stands in the configuration
            told = f"--{error.name.replace('_', '-')} {error.fault}"
        print(f"hwm {verb}: error: {told}", file=sys.stderr)
        return 2


def parsed(function: Callable[..., Any], arguments: list[str], *, prog: str, description: str | None = None) -> Any:
    """The call of a function, or the dataclass, that these words of a command line ask for.

    Raises ValueError, of one line, for words that cannot be read; SystemExit once the help is printed.
    """
    import tyro

    for before, word in zip(["", *arguments], arguments):
        if not word.strip():
            raise ValueError(f"{before if before.startswith('--') else 'an argument'} is empty: give a value, or leave it away")
    out, err = _Page(), StringIO()
    config = tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes
    try:
        with redirect_stdout(out), redirect_stderr(err):
            wanted = function if isinstance(function, type) else _named(function)
            return tyro.cli(wanted, args=arguments, prog=prog, description=description, config=config)
    except SystemExit as leaving:
        if leaving.code:
            raise ValueError(f"{_fault(err.getvalue())}; {prog} --help lists the options") from None
        print(_quiet(out.getvalue()), end="")
        raise


class _Page(StringIO):
    """Text that is kept; frames are drawn as standard output can show them."""

    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # type: ignore[assignment]


def _named(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function for tyro: it gives the call that is yet to be made, and its help names every positional argument."""
    import tyro

    hints, own = get_type_hints(function, include_extras=True), signature(function)

    def call(*given: Any, **options: Any) -> Callable[[], Any]:
        return partial(call_within, function, *given, **options)

    def named(parameter: Parameter) -> Parameter:
        positional = parameter.kind is parameter.POSITIONAL_ONLY and not is_dataclass(parameter.default)
        metavar = parameter.name.upper() if positional else METAVARS.get(parameter.name)
        hint = "" if parameter.default in ("", None) else None  # says nothing
        mark = tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)
        return parameter.replace(annotation=Annotated[hints[parameter.name], mark])

    signed: Any = call
    signed.__signature__ = own.replace(parameters=[named(each) for each in own.parameters.values()])
    signed.__annotations__ = {name: each.annotation for name, each in signed.__signature__.parameters.items()}
    signed.__doc__ = function.__doc__
    return call


def _fault(box: str) -> str:
    """What is wrong, in a line, out of the box that tyro draws around it."""
    parts = re.split(r"[-─]{4,}", re.sub("[│╭╮╰╯]", "", box))
    text = " ".join(parts[min(1, len(parts) - 1)].split())
    near = re.search(r"(?s)Perhaps you meant.*?(--[\w-]+)", box)
    return text[:300] + (f"; did you mean {near[1]}?" if near else "")


def _quiet(text: str) -> str:
    """A page of help without what says nothing: defaults that are none, and that a value may be left away."""
    text = re.sub(r"\{None\}\|(\S+)", lambda found: found[1].ljust(len(found[0])), text)
    return re.sub(r"\(default: (None|'')?\)", lambda found: " " * len(found[0]), text)
