"""`python -m train COMMAND`: what `dicom-node` calls train, evaluate, reproduce, export and audit, without the node.

Each command is a module of `train.commands`, imported only when it is called, so that nothing heavy delays --help.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Sequence

from train import commands

PROGRAM = "python -m train"


def main(arguments: Sequence[str]) -> int:
    known = sorted(each.name for each in pkgutil.iter_modules(commands.__path__))
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_usage(known))
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(known)}"
        sys.stderr.write(f"error: {PROGRAM} has no command {name!r}; {hint}\n")
        return 2
    code: int = importlib.import_module(f"train.commands.{name}").main(rest, f"{PROGRAM} {name}")
    return code


def _usage(known: Sequence[str]) -> str:
    width = max(map(len, known))
    lines = [f"  {name:<{width}} {importlib.import_module(f'train.commands.{name}').SUMMARY}\n" for name in known]
    return f"usage: {PROGRAM} COMMAND [options]; COMMAND --help lists the options\n\n" + "".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
