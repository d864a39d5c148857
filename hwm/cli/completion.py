"""A script by which a shell completes verbs, options and recipes."""

import dataclasses
from inspect import signature
from typing import Literal

SCRIPT = """_hwm() {
  local word=${COMP_WORDS[COMP_CWORD]} words=
  case $COMP_CWORD:${COMP_WORDS[1]}:$word in
CASES
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _hwm hwm
"""
SHELLS = {"bash": "", "zsh": "autoload -U +X bashcompinit && bashcompinit\n"}


def completion(shell: Literal["bash", "zsh"], /) -> int:
    """Print the script by which a shell completes verbs, options and recipes: `eval "$(hwm completion bash)"` in ~/.bashrc.

    Args:
        shell: Which shell.
    """
    from hwm.cli import VERBS, function_of
    from hwm.experiments.carry_out import declarations
    from hwm.recipes import names
    known = declarations()
    words = {"data": ["check", "describe", "convert"], "experiment": list(known), "completion": list(SHELLS)}
    words |= dict.fromkeys(("train", "doctor", "recipes"), names())
    cases = [f'    1:*) words="{" ".join(VERBS)}" ;;']
    for verb in VERBS:
        owners = [plan for *_, plan in known.values()] if verb == "experiment" else [function_of(verb)]
        options = {name for owner in owners for name in _options(owner)}
        cases.append(f'    *:{verb}:-*) words="{" ".join(sorted({*options, "--help"}))}" ;;')
        if verb in words:
            cases.append(f'    2:{verb}:*) words="{" ".join(words[verb])}" ;;')
    print(SHELLS[shell] + SCRIPT.replace("CASES", "\n".join(cases)), end="")
    return 0


def _options(owner: object) -> set[str]:
    """The options of a verb's function, or of the dataclass that it takes."""
    found = set()
    for name, parameter in signature(owner).parameters.items():  # type: ignore[arg-type]
        if dataclasses.is_dataclass(parameter.default):
            found |= _options(type(parameter.default))
        elif parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            found.add(f"--{name.replace('_', '-')}")
    return found
