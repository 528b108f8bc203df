"""Parse command lines without running them, as the commands themselves do.

Reads a JSON list of [module, argument, ...] from standard input and writes a JSON list of messages, "" where
the command line is right. Each is parsed in a fork of one process, which imports the commands once.
"""

import importlib
import json
import os
import runpy
import sys
import tempfile

from absl import app

PARSED = 77  # an exit status that no command has, so that one which runs is not taken for one that is parsed


def _parse_only(main, argv=None, flags_parser=None):
    """Stand in for absl's `app.run`: read flags and config, and end."""
    flags_parser(sys.argv)
    os._exit(PARSED)


def message_of(module: str, arguments: list[str]) -> str:
    """Return what the command prints about its command line, "" where there is nothing wrong."""
    with tempfile.TemporaryFile("w+") as printed:
        child = os.fork()
        if child == 0:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
            app.run = _parse_only
            sys.argv = [module, *arguments]
            sys.modules.pop(module, None)  # else runpy warns that it was imported before
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        printed.seek(0)
        return "" if status == PARSED else printed.read() or f"exit status {status}"


if __name__ == "__main__":
    lines = json.load(sys.stdin)
    for module in sorted({line[0] for line in lines}):
        importlib.import_module(module)
    print(json.dumps([message_of(module, arguments) for module, *arguments in lines]))
