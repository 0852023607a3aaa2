"""Start the hub: ``python -m tests.servers.hub``, or this file or folder as a path."""

import pathlib
import runpy
import sys

if __package__:
    from .server import main

    if __name__ == "__main__":
        main()
else:
    # As in mock_llm/__main__.py: the folder above takes the place of this one.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)
    runpy.run_module("hub", run_name="__main__", alter_sys=True)
