"""What a hub remembers: repositories with their commits, and uploaded objects."""

import dataclasses
import hashlib
import threading
from typing import Any

Files = dict[str, bytes]


@dataclasses.dataclass
class Repo:
    """One repository: its commits (each with all of its files) and its branches."""

    kind: str
    repo_id: str
    private: bool
    commits: dict[str, Files]
    branches: dict[str, str]

    def commit_of(self, revision: str) -> str:
        """Return the commit that a branch or a commit's name stands for."""
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def commit(self, branch: str, files: Files) -> str:
        """Add a commit to a branch; return its name."""
        parent = self.branches[branch]
        sha = hashlib.sha1(f"{parent}{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha


class Store:
    """Everything that a hub remembers."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[str] = []

    def repo(self, kind: str, repo_id: str) -> Repo:
        """Return a repository, or raise the error that the real hub sends for a missing one."""
        if (kind, repo_id) not in self.repos:
            raise HubError(404, "RepoNotFound", "Repository not found")
        return self.repos[kind, repo_id]

    def create(self, kind: str, repo_id: str, private: bool) -> bool:
        """Make a repository; return False when it was there."""
        if (kind, repo_id) in self.repos:
            return False
        first = hashlib.sha1(f"{kind}/{repo_id}".encode()).hexdigest()
        files = {".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"}
        self.repos[kind, repo_id] = Repo(kind, repo_id, private, {first: files}, {"main": first})
        return True

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        """Describe a file as the hub lists it."""
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 in self.blobs:
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
        return entry


class HubError(Exception):
    """A refusal, with the code by which huggingface_hub tells its errors apart."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
