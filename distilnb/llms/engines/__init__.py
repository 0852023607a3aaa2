"""What runs inside a model host: one file an inference library, behind one small interface.

Nothing here is imported by anybody but a host, so each file imports its library at the top of what needs it.
"""
