"""HOW it looks: the graph, tables, the preview, the panel of a run; as text, as static HTML, and live.

It reads graphs, rows and statuses, and acts only through callbacks. Nothing is imported here: a command line
that prints one line of status needs no widgets.
"""
