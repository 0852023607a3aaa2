"""The notebook's front end: `%distil` and `%%distil`, their completion, and the current pipeline.

Every sub-command parses its line, calls the method that does the work, and returns what the method returns.
"""

from distilnb.notebook.extension import load, unload

__all__ = ["load", "unload"]
