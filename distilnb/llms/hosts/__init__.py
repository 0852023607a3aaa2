"""The model host: one process that holds a local model for everybody on the machine (docs/architecture/hosts.md)."""
