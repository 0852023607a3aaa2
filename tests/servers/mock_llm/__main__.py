"""Start the mock server: ``python -m tests.servers.mock_llm``, or this file or folder as a path."""

import pathlib
import runpy
import sys

if __package__:
    from .command import main

    if __name__ == "__main__":
        main()
else:
    # Run as a path there is no package to import the neighbours from. The folder above takes the
    # place of this one, so that `mock_llm` is found and its modules do not become top-level names.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)
    runpy.run_module("mock_llm", run_name="__main__", alter_sys=True)
