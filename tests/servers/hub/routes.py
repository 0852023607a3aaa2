"""What the hub answers: one function a route, and the table of routes under them."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

from .store import HubError, Store

USER = "tester"


class Request(NamedTuple):
    """What a route needs to know of a request."""

    method: str
    base: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """What is sent back: bytes as they are, anything else as JSON."""

    content: Any
    status: int = 200
    headers: Mapping[str, str] = {}


Route = Callable[..., Answer]


def whoami(store: Store, request: Request) -> Answer:
    """Tell whose token it is."""
    token = {"displayName": "tests", "role": "write"}
    return Answer({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": token}})


def validate_card(store: Store, request: Request) -> Answer:
    """Accept the metadata of any card."""
    return Answer({"errors": [], "warnings": []})


def create_repo(store: Store, request: Request) -> Answer:
    """Make a repository; 409 when it exists, which clients may choose to accept."""
    wanted = json.loads(request.body)
    kind = wanted.get("type") or "model"
    repo_id = f"{wanted.get('organization') or USER}/{wanted['name']}"
    private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
    created = store.create(kind, repo_id, private)
    body = {"url": f"{request.base}/{_prefix(kind)}{repo_id}", "id": repo_id, "name": repo_id}
    return Answer(
        body if created else {**body, "error": "You already created this repo"}, 200 if created else 409
    )


def delete_repo(store: Store, request: Request) -> Answer:
    """Forget a repository."""
    wanted = json.loads(request.body)
    kind, repo_id = wanted.get("type") or "model", f"{wanted.get('organization') or USER}/{wanted['name']}"
    store.repo(kind, repo_id)
    del store.repos[kind, repo_id]
    return Answer({})


def describe_repo(store: Store, request: Request, kind: str, repo_id: str, revision: str = "main") -> Answer:
    """Describe a repository at a revision."""
    repo = store.repo(kind, repo_id)
    sha = repo.commit_of(revision)
    return Answer(
        {
            "id": repo_id,
            "author": repo_id.partition("/")[0],
            "sha": sha,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": path} for path in repo.commits[sha]],
        }
    )


def list_refs(store: Store, request: Request, kind: str, repo_id: str) -> Answer:
    """List the branches."""
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
        for name, sha in store.repo(kind, repo_id).branches.items()
    ]
    return Answer({"branches": branches, "converts": [], "tags": []})


def create_branch(store: Store, request: Request, kind: str, repo_id: str, branch: str) -> Answer:
    """Start a branch at a revision; 409 when it exists."""
    repo = store.repo(kind, repo_id)
    if branch in repo.branches:
        raise HubError(409, "BranchExists", f"Reference already exists: {branch}")
    start = json.loads(request.body or b"{}").get("startingPoint") or "main"
    repo.branches[branch] = repo.commit_of(start)
    return Answer({})


def list_tree(
    store: Store, request: Request, kind: str, repo_id: str, revision: str, folder: str = ""
) -> Answer:
    """List the files and folders under a folder."""
    repo = store.repo(kind, repo_id)
    files = repo.commits[repo.commit_of(revision)]
    start = f"{folder}/" if folder else ""
    inside = {path.removeprefix(start): content for path, content in files.items() if path.startswith(start)}
    if folder and not inside:
        raise HubError(404, "EntryNotFound", f"{folder} does not exist")
    recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    folders = {
        "/".join(parts[:depth])
        for parts in (path.split("/") for path in inside)
        for depth in range(1, len(parts) if recursive else min(2, len(parts)))
    }
    entries = [
        store.entry(start + path, content) for path, content in inside.items() if recursive or "/" not in path
    ]
    return Answer([*(_folder_entry(start + path) for path in sorted(folders)), *entries])


def describe_paths(store: Store, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
    """Describe the files and folders that are asked for, as far as they exist."""
    repo = store.repo(kind, repo_id)
    files = repo.commits[repo.commit_of(revision)]
    if request.body.startswith(b"{"):
        paths = json.loads(request.body)["paths"]
    else:
        paths = parse_qs(request.body.decode()).get("paths", [])
    found = [store.entry(path, files[path]) for path in paths if path in files]
    folders = [path for path in paths if any(name.startswith(path.rstrip("/") + "/") for name in files)]
    return Answer([*found, *(_folder_entry(path) for path in folders)])


def choose_upload(store: Store, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
    """Say which files go through LFS: the binary ones."""
    files = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith((".parquet", ".safetensors", ".bin")) else "regular",
            "shouldIgnore": False,
            "oid": None,
        }
        for file in json.loads(request.body)["files"]
    ]
    return Answer({"files": files})


def offer_upload(store: Store, request: Request, kind: str, repo_id: str) -> Answer:
    """Answer the LFS batch request: where to put what is not there yet."""
    objects = []
    for wanted in json.loads(request.body)["objects"]:
        offer: dict[str, Any] = {**wanted, "authenticated": True}
        if wanted["oid"] not in store.blobs:
            offer["actions"] = {"upload": {"href": f"{request.base}/lfs/{wanted['oid']}"}}
        objects.append(offer)
    return Answer({"transfer": "basic", "objects": objects})


def receive_upload(store: Store, request: Request, oid: str) -> Answer:
    """Keep an LFS object; a wrong digest is refused."""
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError(400, "BadDigest", "the content does not match its name")
    store.blobs[oid] = request.body
    return Answer(b"")


def commit(store: Store, request: Request, kind: str, repo_id: str, branch: str) -> Answer:
    """Apply a commit (a line of JSON for each operation); 412 when its parent is no longer the head."""
    repo = store.repo(kind, repo_id)
    if branch not in repo.branches:
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {branch}")
    files = dict(repo.commits[repo.branches[branch]])
    for line in request.body.splitlines():
        operation = json.loads(line)
        key, value = operation["key"], operation["value"]
        if key == "header":
            if value.get("parentCommit") not in (None, repo.branches[branch]):
                raise HubError(
                    412, "PreconditionFailed", "A commit has happened since. Please refresh and try again."
                )
        elif key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = store.blobs[value["oid"]]
        elif key == "deletedFile":
            files.pop(value["path"], None)
        elif key == "deletedFolder":
            inside = value["path"].rstrip("/") + "/"
            files = {path: content for path, content in files.items() if not path.startswith(inside)}
        else:
            raise HubError(400, "BadRequest", f"unknown operation {key!r}")
    sha = repo.commit(branch, files)
    url = f"{request.base}/{_prefix(kind)}{repo_id}/commit/{sha}"
    return Answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


def send_file(store: Store, request: Request, kind: str, repo_id: str, revision: str, path: str) -> Answer:
    """Send a file, or the range of it that is asked for."""
    repo = store.repo(kind, repo_id)
    sha = repo.commit_of(revision)
    if path not in repo.commits[sha]:
        raise HubError(404, "EntryNotFound", "Entry not found")
    content = repo.commits[sha][path]
    entry = store.entry(path, content)
    headers = {
        "ETag": f'"{entry.get("lfs", entry)["oid"]}"',
        "X-Repo-Commit": sha,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if not wanted or not (wanted[1] or wanted[2]):
        return Answer(content, 200, headers)
    size = len(content)
    start = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
    end = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
    if start >= size:
        return Answer(b"", 416, {**headers, "Content-Range": f"bytes */{size}"})
    return Answer(content[start : end + 1], 206, {**headers, "Content-Range": f"bytes {start}-{end}/{size}"})


def _prefix(kind: str) -> str:
    return "" if kind == "model" else f"{kind}s/"


def _folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}


_API = r"/api/(?P<kind>dataset|model|space)s/(?P<repo_id>[^/]+/[^/]+)"
_REPO = r"/(?:(?P<kind>dataset|space)s/)?(?P<repo_id>[^/]+/[^/]+?)"

# Asked without a token: cards are checked for anybody, and an upload's address is its permission.
_OPEN = ("/api/validate-yaml", "/lfs/")

# A branch may hold a slash, which clients send as %2F: paths are matched first and unquoted after.
ROUTES: tuple[tuple[str, re.Pattern[str], Route], ...] = tuple(
    (method, re.compile(pattern), route)
    for method, pattern, route in (
        ("GET", r"/api/whoami-v2", whoami),
        ("POST", r"/api/validate-yaml", validate_card),
        ("POST", r"/api/repos/create", create_repo),
        ("DELETE", r"/api/repos/delete", delete_repo),
        ("GET", rf"{_API}(?:/revision/(?P<revision>[^/]+))?", describe_repo),
        ("GET", rf"{_API}/refs", list_refs),
        ("POST", rf"{_API}/branch/(?P<branch>[^/]+)", create_branch),
        ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", list_tree),
        ("POST", rf"{_API}/paths-info/(?P<revision>[^/]+)", describe_paths),
        ("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", choose_upload),
        ("POST", rf"{_API}/commit/(?P<branch>[^/]+)", commit),
        ("POST", rf"{_REPO}\.git/info/lfs/objects/batch", offer_upload),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", receive_upload),
        ("GET", rf"{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", send_file),
    )
)


def answer(store: Store, request: Request, path: str) -> Answer:
    """Find the route of a request and take it."""
    if not path.startswith(_OPEN):
        _check_token(store, request, path)
    method = "GET" if request.method == "HEAD" else request.method
    for allowed, pattern, route in ROUTES:
        if allowed == method and (match := pattern.fullmatch(path)):
            named = {name: unquote(text) for name, text in match.groupdict().items() if text is not None}
            if "kind" in match.groupdict():
                named.setdefault("kind", "model")
            return route(store, request, **named)
    raise HubError(404, "NotFound", f"no route for {request.method} {path}")


def _check_token(store: Store, request: Request, path: str) -> None:
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if store.token in ("", given):
        return
    if given:
        raise HubError(401, "", "Invalid credentials in Authorization header")
    # Without a token the real hub does not tell a repository that is hidden from one that is missing.
    is_repo = re.match(_API, path) or "/resolve/" in path
    raise HubError(401, "RepoNotFound" if is_repo else "", "Invalid username or password.")
