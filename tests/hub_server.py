"""A small Hub on loopback, for the real clients: what huggingface_hub and datasets ask for over HTTP, and faults.

Repositories are kept in memory, as commits of files. Files as large or of such types as the Hub keeps them in LFS go
through its batch and upload requests, with their digest checked; all others travel in the commit. Every answer is
noted in `requests`, with the bytes of its body.
"""

import base64
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITER = "hf_writerwriterwriter"
OTHER = "hf_otherotherother"
_LFS_SUFFIXES = (".parquet", ".safetensors", ".png", ".arrow", ".bin")
_LFS_SIZE = 10 * 2**20
_POINTER_SIZE = 130
_DATE = "2026-01-01T00:00:00.000Z"


_COMMITS = itertools.count()


@dataclass
class Repo:
    """One repository: `branches[name]` is a list of commit ids, and `commits[id]` the files of a commit by path."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, list[str]] = field(default_factory=lambda: {"main": []})
    titles: dict[str, str] = field(default_factory=dict)
    uploaded: set[str] = field(default_factory=set)

    def add_commit(self, branch: str, files: dict[str, bytes], title: str) -> str:
        history = self.branches[branch]
        # No two are alike, those of a repository that had the same name before neither.
        seed = f"{next(_COMMITS)} {branch} {title} {sorted(files)}".encode()
        oid = hashlib.sha1(seed).hexdigest()
        self.commits[oid], self.titles[oid] = files, title
        history.append(oid)
        return oid

    @property
    def head(self) -> str:
        return self.branches["main"][-1]

    @property
    def files(self) -> dict[str, bytes]:
        """The files at the head of main."""
        return self.commits[self.head]

    def find(self, revision: str) -> str | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        found = [oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)]
        return found[0] if found else None


@dataclass
class Answered:
    """A request that was answered."""

    method: str
    path: str
    status: int
    sent: int


@dataclass
class Fault:
    """What goes wrong with the requests that match: a status, or a connection cut after so many bytes."""

    method: str
    pattern: re.Pattern[str]
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    call: Callable[[], None] | None = None


class Hub:
    """The server. `tokens` maps tokens to users, `members` organisations to their users.

    Use as a context manager; `endpoint` is its address.
    """

    def __init__(self) -> None:
        self.clear()
        self.lock = threading.RLock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def clear(self) -> None:
        """Forgets all repositories and faults."""
        self.tokens = {WRITER: "me", OTHER: "other"}
        self.members: dict[str, list[str]] = {"lab": ["me"]}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Answered] = []
        self.faults: list[Fault] = []
        # What a Hub that is not well makes of the files of a commit.
        self.alter: Callable[[dict[str, bytes]], dict[str, bytes]] | None = None
        # Commits that are made, with an answer that does not arrive.
        self.lose_answers = 0
        # What it finds in the head of a card.
        self.invalid: list[str] = []

    def __enter__(self) -> "Hub":
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def dataset(self, repo_id: str) -> Repo:
        return self.repos["dataset", repo_id]

    def model(self, repo_id: str) -> Repo:
        return self.repos["model", repo_id]

    def space(self, repo_id: str) -> Repo:
        return self.repos["space", repo_id]

    def fail(
        self,
        method: str,
        pattern: str,
        *,
        status: int | None = None,
        headers: dict[str, str] | None = None,
        cut_after: int | None = None,
        call: Callable[[], None] | None = None,
        times: int = 1,
    ) -> Fault:
        """Makes the next requests go wrong whose path matches: answers them with a status, cuts the connection after
        so many bytes of the body have been read (or sent, for GET), or calls something before the answer."""
        fault = Fault(method, re.compile(pattern), times, status, headers or {}, cut_after, call)
        self.faults.append(fault)
        return fault

    def sent(self, pattern: str) -> int:
        """Bytes of the bodies sent for the paths that match."""
        return sum(one.sent for one in self.requests if re.search(pattern, one.path))

    @contextmanager
    def counted(self) -> Iterator[list[Answered]]:
        """The requests of a block."""
        before = len(self.requests)
        seen: list[Answered] = []
        yield seen
        seen.extend(self.requests[before:])

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.pattern.search(path):
                    fault.times -= 1
                    return fault
        return None


class _Cut(Exception):
    """The connection is to be cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle("HEAD")

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        self.method, self.cut_sending = method, None
        parts = urlsplit(self.path)
        self.url, self.query = unquote(parts.path), parse_qs(parts.query)
        fault = self.hub.take_fault(method, self.url)
        try:
            if fault is not None and fault.cut_after is not None and method != "GET":
                self._body(fault.cut_after)
                raise _Cut
            self.body = self._body()
            if fault is not None:
                if fault.call is not None:
                    fault.call()
                if fault.status is not None:
                    self._send(fault.status, {"error": "a fault on request"}, **fault.headers)
                    return
                self.cut_sending = fault.cut_after
            with self.hub.lock:
                answer = self._answer()
            answer()
        except (_Cut, ConnectionError):
            self.close_connection = True
            self.hub.requests.append(Answered(method, self.url, 0, 0))

    def _body(self, limit: int | None = None) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            read = b""
            while size := int(self.rfile.readline(), 16):
                read += self.rfile.read(size)
                self.rfile.readline()
                if limit is not None and len(read) >= limit:
                    return read
            self.rfile.readline()
            return read
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length if limit is None else min(limit, length))

    # Answers

    def _send(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        fields = {"Content-Type": kind, "Content-Length": str(len(body)), **headers}
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.method == "HEAD":
            body = b""
        if self.cut_sending is not None:
            self.wfile.write(body[: self.cut_sending])
            raise _Cut
        self.wfile.write(body)
        self.hub.requests.append(Answered(self.method, self.url, status, len(body)))

    def _error(self, status: int, code: str = "", message: str = "") -> Callable[[], None]:
        headers = {"X_Error_Code": code} if code else {}
        if message:
            headers["X_Error_Message"] = message
        return lambda: self._send(status, {"error": message or code}, **headers)

    def _ok(self, content: Any, **headers: str) -> Callable[[], None]:
        return lambda: self._send(200, content, **headers)

    def _user(self) -> str | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.hub.tokens.get(given)

    def _may_write(self, owner: str) -> bool:
        user = self._user()
        return user is not None and (user == owner or user in self.hub.members.get(owner, []))

    def _answer(self) -> Callable[[], None]:
        given = self.headers.get("Authorization")
        if given and self._user() is None and not self.url.startswith("/blobs/"):
            return self._error(401, message="Invalid credentials in Authorization header")
        if self.url == "/api/repos/create":
            return self._create()
        if self.url == "/api/whoami-v2":
            if not given:
                return self._error(401)
            user = self._user()
            orgs = [{"name": name, "type": "org"} for name, users in self.hub.members.items() if user in users]
            return self._ok({"type": "user", "name": user, "orgs": orgs, "auth": {"type": "access_token"}})
        if self.url == "/api/validate-yaml":
            errors = [{"message": message} for message in self.hub.invalid]
            return lambda: self._send(400 if errors else 200, {"errors": errors, "warnings": []})
        if match := re.fullmatch(r"/blobs/([0-9a-f]{64})", self.url):
            return self._upload(match[1])
        if match := re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.url):
            return self._in_repo(match[1] or "model", match[2], self._batch, write=True)
        if match := re.fullmatch(r"/api/(dataset|model|space)s/([^/]+/[^/]+)(?:/(.*))?", self.url):
            kind, name, rest = match[1], match[2], match[3] or ""
            write = rest.startswith(("preupload", "commit/", "branch/")) or self.method == "DELETE"
            return self._in_repo(kind, name, lambda repo: self._api(repo, name, rest), write=write)
        if match := re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.url):
            return self._in_repo(match[1] or "model", match[2], lambda repo: self._resolve(repo, match[3], match[4]))
        return self._error(404)

    def _in_repo(
        self, kind: str, name: str, then: Callable[[Repo], Callable[[], None]], write: bool = False
    ) -> Callable[[], None]:
        repo = self.hub.repos.get((kind, name))
        owner = name.split("/")[0]
        # The Hub does not tell a private repository from none.
        if repo is None or (repo.private and not self._may_write(owner)):
            return self._error(401 if self._user() is None else 404, "RepoNotFound", "Repository not found")
        if repo.gated and not self._may_write(owner) and "/resolve/" in self.url:
            return self._error(403, "GatedRepo", "Access to this repository is restricted")
        if write and not self._may_write(owner):
            return self._error(403, message="You don't have the rights to write to this repository")
        return then(repo)

    def _create(self) -> Callable[[], None]:
        asked = json.loads(self.body)
        user = self._user()
        if user is None:
            return self._error(401, message="Invalid username or password.")
        owner = asked.get("organization") or user
        if owner != user and user not in self.hub.members.get(owner, []):
            return self._error(403, message=f"You don't have the rights to create a repository under {owner}")
        kind, name = asked.get("type", "model"), f"{owner}/{asked['name']}"
        if (kind == "space") != ("sdk" in asked):
            return self._error(400, message="a Space needs an SDK, and nothing else has one")
        url = f"{self.hub.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{name}"
        if (kind, name) in self.hub.repos:
            return lambda: self._send(409, {"error": "You already created this repo", "url": url})
        private = asked.get("private") or asked.get("visibility") == "private"
        repo = self.hub.repos[kind, name] = Repo(private=bool(private))
        template = {"README.md": b"---\nsdk: static\n---\n", "index.html": b"Welcome", "style.css": b"body {}"}
        files = {".gitattributes": b"*.parquet filter=lfs\n", **(template if kind == "space" else {})}
        repo.add_commit("main", files, "initial commit")
        return self._ok({"url": url, "name": name, "id": name})

    def _upload(self, oid: str) -> Callable[[], None]:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._error(400, message="the digest differs")
        self.hub.blobs[oid] = self.body
        kind, _, name = self.query["repo"][0].partition("/")
        self.hub.repos[kind, name].uploaded.add(oid)
        return self._ok(b"")

    def _batch(self, repo: Repo) -> Callable[[], None]:
        place = next(f"{kind}/{name}" for (kind, name), known in self.hub.repos.items() if known is repo)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            one: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in repo.uploaded:
                href = f"{self.hub.endpoint}/blobs/{asked['oid']}?repo={place}"
                one["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(one)
        return self._ok({"transfer": "basic", "objects": objects})

    def _api(self, repo: Repo, name: str, rest: str) -> Callable[[], None]:
        action, _, argument = rest.partition("/")
        if action in ("", "revision"):
            oid = repo.find(argument or "main")
            return self._missing_revision() if oid is None else self._ok(self._info(repo, name, oid))
        if action == "refs":
            branches = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commits[-1]}
                for branch, commits in repo.branches.items()
            ]
            return self._ok({"branches": branches, "tags": [], "converts": []})
        if action == "branch":
            if argument in repo.branches:
                return self._error(409, message=f"Reference already exists: refs/heads/{argument}")
            repo.branches[argument] = list(repo.branches["main"])
            return self._ok({})
        if action == "preupload":
            return self._preupload(repo, argument)
        if action == "commit":
            return self._commit(repo, name, argument)
        revision, _, path = argument.partition("/")
        oid = repo.find(revision)
        if oid is None:
            return self._missing_revision()
        if action == "commits":
            branch = next((commits for commits in repo.branches.values() if oid in commits), [oid])
            shown = [
                {"id": one, "title": repo.titles[one], "message": "", "date": _DATE, "authors": [{"user": "me"}]}
                for one in reversed(branch[: branch.index(oid) + 1])
            ]
            return self._ok(shown)
        if action == "tree":
            listed = self._tree(repo.commits[oid], path, self.query.get("recursive", [""])[0].lower() == "true")
            return self._error(404, "EntryNotFound") if path and not listed else self._ok(listed)
        if action == "paths-info":
            if self.headers.get("Content-Type", "").startswith("application/json"):
                asked = json.loads(self.body)["paths"]
            else:
                asked = parse_qs(self.body.decode())["paths"]
            entries = {one["path"]: one for one in self._tree(repo.commits[oid], "", True)}
            return self._ok([entries[path] for path in asked if path in entries])
        return self._error(404)

    def _missing_revision(self) -> Callable[[], None]:
        return self._error(404, "RevisionNotFound")

    def _info(self, repo: Repo, name: str, oid: str) -> dict[str, Any]:
        files = repo.commits[oid]
        card = {}
        if match := re.match(rb"---\n(.*?)\n---", files.get("README.md", b""), re.DOTALL):
            import yaml

            with suppress(yaml.YAMLError):
                card = yaml.safe_load(match[1]) or {}
        return {
            "_id": oid[:24],
            "id": name,
            "author": name.split("/")[0],
            "sha": oid,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "tags": card.get("tags", []),
            "cardData": card,
            "downloads": 0,
            "likes": 0,
            "lastModified": _DATE,
            "createdAt": _DATE,
            "siblings": [{"rfilename": path} for path in sorted(files)],
        }

    def _tree(self, files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
        folder = f"{folder.rstrip('/')}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, content in sorted(files.items()):
            if not path.startswith(folder):
                continue
            steps = path.removeprefix(folder).split("/")
            for depth in range(1, len(steps) if recursive else min(len(steps), 2)):
                parent = folder + "/".join(steps[:depth])
                found[parent] = {"type": "directory", "path": parent, "size": 0, "oid": _git_hash(parent.encode())}
            if recursive or len(steps) == 1:
                found[path] = {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
                if _is_lfs(path, len(content)):
                    oid = hashlib.sha256(content).hexdigest()
                    found[path]["lfs"] = {"oid": oid, "size": len(content), "pointerSize": _POINTER_SIZE}
        return list(found.values())

    def _preupload(self, repo: Repo, revision: str) -> Callable[[], None]:
        oid = repo.find(revision)
        if oid is None:
            return self._missing_revision()
        answers = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            mode = "lfs" if _is_lfs(path, asked["size"]) else "regular"
            content = repo.commits[oid].get(path)
            stored = None if content is None else _stored_oid(path, content)
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": stored})
        return self._ok({"files": answers})

    def _commit(self, repo: Repo, name: str, branch: str) -> Callable[[], None]:
        if branch not in repo.branches:
            return self._missing_revision()
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        files = dict(repo.commits[repo.branches[branch][-1]])
        parent = header.get("parentCommit")
        if parent is not None and not repo.branches[branch][-1].startswith(parent):
            return self._error(412, message="A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            path = value["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in repo.uploaded:
                    return self._error(400, message=f"the LFS object of {path} was not uploaded")
                files[path] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                if path not in files:
                    return self._error(404, "EntryNotFound", f"no file {path} to delete")
                del files[path]
            elif line["key"] == "deletedFolder":
                folder = path.rstrip("/") + "/"
                files = {known: content for known, content in files.items() if not known.startswith(folder)}
            else:
                return self._error(400, message=f"unknown operation {line['key']}")
        if self.hub.alter is not None:
            files = self.hub.alter(files)
        oid = repo.add_commit(branch, files, header["summary"])
        if self.hub.lose_answers:
            self.hub.lose_answers -= 1
            raise _Cut
        return self._ok({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}"})

    def _resolve(self, repo: Repo, revision: str, path: str) -> Callable[[], None]:
        oid = repo.find(revision)
        if oid is None:
            return self._missing_revision()
        content = repo.commits[oid].get(path)
        if content is None:
            return self._error(404, "EntryNotFound")
        headers = {"ETag": f'"{_stored_oid(path, content)}"', "X_Repo_Commit": oid, "Accept_Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self._ok(content, **headers)
        start, end = wanted[1], wanted[2]
        first = int(start) if start else max(0, len(content) - int(end))
        last = min(int(end), len(content) - 1) if start and end else len(content) - 1
        if first > last:
            return lambda: self._send(416, b"", Content_Range=f"bytes */{len(content)}")
        headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        return lambda: self._send(206, content[first : last + 1], **headers)


def _is_lfs(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(_LFS_SUFFIXES) or size > _LFS_SIZE)


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _stored_oid(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if _is_lfs(path, len(content)) else _git_hash(content)


class Client:
    """Processes that see the Hub at an address of their choice; they run one function each, or several in turn.

    The libraries read their environment when they are imported, so a client is a process of its own, with a home
    folder of its own: a fresh cache.
    """

    def __init__(self, hub: Hub, home: Path, token: str | None = WRITER) -> None:
        self.home = home
        self.environment = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home / "hf"),
            "HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.environment |= {} if token is None else {"HF_TOKEN": token}
        (home / "hf").mkdir(parents=True, exist_ok=True)
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Client":
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, initializer=_quiet)
        return self

    def __exit__(self, *_: Any) -> None:
        assert self.pool is not None
        self.pool.shutdown()

    def __call__(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Runs a function of a test module in the client's process and returns its value, or raises its error."""
        assert self.pool is not None
        before = dict(os.environ)
        os.environ |= self.environment
        if "HF_TOKEN" not in self.environment:
            os.environ.pop("HF_TOKEN", None)
        try:
            return self.pool.submit(function, *arguments, **options).result()
        finally:
            os.environ.clear()
            os.environ.update(before)


def _quiet() -> None:
    from datasets import disable_progress_bars

    disable_progress_bars()
