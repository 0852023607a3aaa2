"""WHAT to do: steps, the graph they form, the checks before anything runs, digests and pipeline files."""
