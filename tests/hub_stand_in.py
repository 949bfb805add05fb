"""A stand-in for the Hugging Face Hub on the loopback interface, for the real client to talk to.

It speaks what publishing and loading a model or a data set need: create a repository or a branch,
preupload, LFS upload, commit, info, tree, resolve. A data set's id begins with "datasets/" here.
Tokens decide who may do what, and `HubStandIn.fail` makes chosen requests go wrong.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITER = "hf_writer0000000000000000000000000"
READER = "hf_reader0000000000000000000000000"  # may read the private repositories, writes nowhere
LFS_ENDINGS = (".safetensors", ".png", ".bin", ".parquet", ".csr")
CUT = 0  # the status that stands for a connection that breaks off


@dataclass
class Repo:
    """Branches, each a list of commits (sha and all files), the newest last."""

    private: bool = False
    branches: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = [commit for branch in self.branches.values() for commit in branch]
        return next((commit for commit in commits if commit[0] == revision), None)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        history = self.branches.setdefault(branch, [])
        sha = hashlib.sha1(f"{branch}{len(history)}{sorted(files)}".encode()).hexdigest()
        history.append((sha, files))
        return sha


class HubStandIn:
    """The server; a context manager that runs it.

    Attributes:
        url: What ``HF_ENDPOINT`` has to be.
        repos: All repositories by id.
        requests: Method and path of every request so far.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._faults: list[list[Any]] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubStandIn:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, repo_id: str, files: dict[str, bytes], private: bool = False) -> Repo:
        """A repository that is there already."""
        repo = self.repos[repo_id] = Repo(private)
        repo.commit("main", files)
        return repo

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds."""
        found = self.repos[repo_id].at(revision)
        assert found is not None
        return found[1]

    def fail(self, pattern: str, status: int, times: int = 1000) -> None:
        """Answer requests whose "METHOD path" matches with a status, or `CUT` the connection."""
        self._faults.append([re.compile(pattern), status, times])

    def fault(self, request: str) -> int | None:
        for entry in self._faults:
            if entry[0].search(request) and entry[2] > 0:
                entry[2] -= 1
                return int(entry[1])
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubStandIn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that tests cut are no news."""


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


ROUTES = {
    r"POST /api/repos/create": "create",
    r"POST /api/validate-yaml": "validate",
    r"POST /api/(?P<repo>.+)/branch/(?P<revision>[^/]+)": "branch",
    r"POST /api/(?P<repo>.+)/preupload/(?P<revision>[^/]+)": "preupload",
    r"POST /api/(?P<repo>.+)/commit/(?P<revision>[^/]+)": "commit",
    r"POST /api/(?P<repo>.+)/paths-info/(?P<revision>[^/]+)": "paths",
    r"POST /(?P<repo>.+)\.git/info/lfs/objects/batch": "lfs",
    r"PUT /lfs/(?P<oid>[0-9a-f]{64})": "store",
    r"GET /api/(?P<repo>.+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?": "tree",
    r"GET /api/(?P<repo>.+)/commits/(?P<revision>[^/]+)": "commits",
    r"GET /api/(?P<repo>.+)/revision/(?P<revision>[^/]+)": "info",
    r"GET /api/(?P<repo>(?:models|datasets)/[^/]+/[^/]+)": "info",
    r"(?:GET|HEAD) /(?P<repo>.+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)": "resolve",
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        path = urlsplit(self.path).path
        request = f"{self.command} {path}"
        hub = self.server.hub
        hub.requests.append(request)
        fault = hub.fault(request)
        if fault == CUT:
            self.rfile.read(min(10, int(self.headers.get("Content-Length", 0))))
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if fault:
                raise _Refusal(fault)
            for route, name in ROUTES.items():
                match = re.fullmatch(route, request)
                if match:
                    groups = {key: unquote(v) for key, v in match.groupdict().items() if v}
                    if "repo" in groups:
                        groups["repo"] = groups["repo"].removeprefix("models/")
                    getattr(self, f"_{name}")(**groups)
                    return
            raise _Refusal(404)
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._send(refusal.status, {"error": refusal.message or "refused"}, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _must_write(self) -> None:
        if self._token() == READER:
            raise _Refusal(403, message="You don't have the rights to do this")
        if self._token() != WRITER:
            raise _Refusal(401, message="Invalid credentials in Authorization header")

    def _repo(self, repo: str) -> Repo:
        found = self.server.hub.repos.get(repo)
        if found is None or (found.private and self._token() not in (READER, WRITER)):
            raise _Refusal(404 if self._token() else 401, "RepoNotFound", "Repository not found")
        return found

    def _files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        found = self._repo(repo).at(revision)
        if found is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _create(self) -> None:
        self._must_write()
        asked = json.loads(self.body)
        named = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        repo_id = f"datasets/{named}" if asked.get("type") == "dataset" else named
        hub = self.server.hub
        answer = {"url": f"{hub.url}/{repo_id}", "name": named}
        if repo_id in hub.repos:
            self._send(409, {**answer, "error": "You already created this model repo"})
            return
        hub.add(repo_id, {".gitattributes": b""}, asked.get("visibility") == "private")
        self._send(200, answer)

    def _validate(self) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def _branch(self, repo: str, revision: str) -> None:
        self._must_write()
        found = self._repo(repo)
        if revision in found.branches:
            raise _Refusal(409, message="Reference already exists")
        found.branches[revision] = list(found.branches["main"])
        self._send(200, {})

    def _preupload(self, repo: str, revision: str) -> None:
        self._must_write()
        self._files(repo, revision)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_ENDINGS) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._send(200, {"files": files})

    def _lfs(self, repo: str) -> None:
        self._must_write()
        self._repo(repo)
        hub = self.server.hub
        objects = []
        for item in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{hub.url}/lfs/{item['oid']}"}}
            objects.append(item if item["oid"] in hub.blobs else {**item, "actions": upload})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refusal(400, message="content does not have this oid")
        self.server.hub.blobs[oid] = self.body
        self._send(200, {})

    def _commit(self, repo: str, revision: str) -> None:
        self._must_write()
        sha, files = self._files(repo, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, sha):
            raise _Refusal(412, message="A commit has happened since")
        changed = dict(files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changed[value["path"]] = self.server.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del changed[value["path"]]
            else:
                raise _Refusal(400, message=f"{line['key']} is not spoken here")
        oid = self._repo(repo).commit(revision, changed)
        url = f"{self.server.hub.url}/{repo}/commit/{oid}"
        self._send(200, {"commitUrl": url, "commitOid": oid})

    def _info(self, repo: str, revision: str = "main") -> None:
        sha, files = self._files(repo, revision)
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        named, private = repo.removeprefix("datasets/"), self._repo(repo).private
        self._send(
            200, {"id": named, "sha": sha, "private": private, "siblings": siblings, "tags": []}
        )

    def _commits(self, repo: str, revision: str) -> None:
        sha, _ = self._files(repo, revision)
        commit = {"id": sha, "authors": [], "date": "2026-01-01T00:00:00.000Z"}
        self._send(200, [{**commit, "title": "a commit", "message": ""}])

    def _tree(self, repo: str, revision: str, path: str = "") -> None:
        _, files = self._files(repo, revision)
        within = [name for name in files if not path or name.startswith(f"{path}/")]
        if path and not within:
            raise _Refusal(404, "EntryNotFound", f"{path} does not exist")
        if "recursive=true" not in self.path.lower():
            depth = path.count("/") + 1 if path else 0
            within = ["/".join(name.split("/")[: depth + 1]) for name in within]
        self._send(200, [_entry(files, name) for name in dict.fromkeys(within)])

    def _paths(self, repo: str, revision: str) -> None:
        _, files = self._files(repo, revision)
        asked = parse_qs(self.body.decode()).get("paths", [])
        if self.headers.get("Content-Type", "").startswith("application/json"):
            asked = json.loads(self.body)["paths"]
        there = [p for p in asked if p in files or any(n.startswith(f"{p}/") for n in files)]
        self._send(200, [_entry(files, path) for path in there])

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        sha, files = self._files(repo, revision)
        if path not in files:
            self._send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
            return
        headers = {"X-Repo-Commit": sha, "ETag": f'"{_etag(files[path])}"'}
        self._send(200, files[path], headers)


def _entry(files: dict[str, bytes], path: str) -> dict[str, Any]:
    """What a listing has of a file or folder."""
    if path not in files:
        return {"type": "directory", "path": path, "oid": _etag(path.encode())}
    return {"type": "file", "path": path, "size": len(files[path]), "oid": _etag(files[path])}


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
