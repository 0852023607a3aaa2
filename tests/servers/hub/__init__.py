"""A Hugging Face Hub on loopback, in memory: ``with fake_hub() as hub``, or this package as a command.

It answers what huggingface_hub and datasets call to create repositories, commit files (small ones in the
commit, large ones through LFS), list them and read them by revision and by range. It keeps every commit.
Not there: xet, pull requests, tags, Spaces' settings, the dataset viewer, rights finer than one token.
"""

from .server import FakeHub, fake_hub

__all__ = ["FakeHub", "fake_hub"]
