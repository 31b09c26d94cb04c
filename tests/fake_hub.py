"""A hub in this process: real HTTP on a port of this machine, as huggingface_hub speaks it, with faults by script.

Large files lie at another origin (a content network), to which the hub redirects, as the real one does.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

LARGE = (".safetensors", ".gguf", ".bin")
"""Endings of what is stored with LFS, as .gitattributes of the hub has them."""
TOKEN = "hf_of_somebody_who_may"


def commit_of(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


@dataclass
class Repo:
    """One repository: its files at each commit."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    gated: bool = False
    private: bool = False


@dataclass
class Answer:
    """What a fault does to one request: another status, or an end in the midst of the bytes."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    flip: bool = False
    until: threading.Event | None = None
    """Where it is cut, nothing more comes, and the connection stays until this is set."""
    clean: bool = False
    """The connection ends in order, with fewer bytes than the hub said."""


@dataclass
class FakeHub:
    """What it has, what it was asked for, and what goes wrong."""

    url: str = ""
    network_url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, range) of each request, in order."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of each file's content, over all requests."""
    tokens_at_network: set[str] = field(default_factory=set)
    """What was shown to the content network, which no token is for."""
    faults: list[tuple[str, str, Answer]] = field(default_factory=list)
    """(method, end of the path, what happens): each happens once, the first that fits."""

    def add(self, repo: str, files: dict[str, bytes], revision: str = "main", **said: bool) -> str:
        """A commit, to which the revision points from now on."""
        commit = commit_of(f"{repo} {revision} {len(files)} {sorted(files)} {sum(map(len, files.values()))}")
        there = self.repos.setdefault(repo, Repo({}, {}, **said))
        there.commits[commit] = files
        there.refs[revision] = commit
        return commit

    def add_folder(self, repo: str, folder: Path, revision: str = "main", **more: bytes) -> str:
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.add(repo, {**files, **more}, revision)

    def will(self, method: str, end: str, *, times: int = 1, **answer: Any) -> None:
        """Let the next requests that fit go wrong."""
        self.faults += [(method, end, Answer(**answer))] * times

    def fault(self, method: str, path: str) -> Answer:
        for nth, (of_method, end, answer) in enumerate(self.faults):
            is_redirect = not answer.status and path.endswith(LARGE) and not path.startswith("/network/")
            if of_method == method and path.endswith(end) and not is_redirect:
                del self.faults[nth]
                return answer
        return Answer()

    def fetched(self) -> set[str]:
        """The files of which some bytes were sent."""
        return {name for name, count in self.sent.items() if count}

    def forget(self) -> None:
        self.asked.clear()
        self.sent.clear()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/agent-harnesses":  # what huggingface_hub asks beside, of some surroundings
            self._say(404, b"{}", {})
            return
        self.hub.asked.append((self.command, path, self.headers.get("Range", "")))
        answer = self.hub.fault(self.command, path)
        if answer.status:
            self._say(answer.status, b"{}", answer.headers)
        elif path.startswith("/api/models/"):
            self._describe(path.removeprefix("/api/models/"))
        elif path.startswith("/network/"):
            self.hub.tokens_at_network.update(filter(None, [self.headers.get("Authorization")]))
            _, _, repo, commit, name = path.split("/", 4)
            self._content(name, self.hub.repos[repo.replace("--", "/")].commits[commit][name], {}, answer)
        else:
            self._resolve(path, answer)

    def _say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._say(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _may(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _found(self, name: str, revision: str) -> tuple[Repo, str] | None:
        """The repository and commit; None where that was refused."""
        repo = self.hub.repos.get(name)
        if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}", "Bearer hf_of_another"):
            self._say(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo is None or (repo.private and not self._may()):
            self._refuse(404 if self.headers.get("Authorization") else 401, "RepoNotFound")
        else:
            commit = repo.refs.get(revision, revision)
            if commit in repo.commits:
                return repo, commit
            self._refuse(404, "RevisionNotFound")
        return None

    def _describe(self, path: str) -> None:
        is_tree = "/tree/" in path
        name, _, revision = path.partition("/tree/" if is_tree else "/revision/")
        found = self._found(name, revision or "main")
        if found is None:
            return
        repo, commit = found
        if is_tree:
            entries = [_entry(file, content) for file, content in repo.commits[commit].items()]
            self._say(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
            return
        siblings = [_sibling(file, content) for file, content in repo.commits[commit].items()]
        told = {"id": name, "sha": commit, "private": repo.private, "gated": repo.gated, "siblings": siblings}
        self._say(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def _resolve(self, path: str, answer: Answer) -> None:
        matched = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path)
        assert matched is not None, path
        name, revision, file = matched.groups()
        found = self._found(name, revision)
        if found is None:
            return
        repo, commit = found
        if repo.gated and not self._may():
            self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            return
        content = repo.commits[commit].get(file)
        if content is None:
            self._say(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        said = {"X-Repo-Commit": commit, "ETag": f'"{oid_of(file, content)}"'}
        if not file.endswith(LARGE):
            self._content(file, content, said, answer)
            return
        said |= {"X-Linked-Etag": said["ETag"], "X-Linked-Size": str(len(content))}
        said["Location"] = f"{self.hub.network_url}/network/{name.replace('/', '--')}/{commit}/{file}?signed=yes"
        self._say(302, b"", said)

    def _content(self, file: str, content: bytes, said: dict[str, str], answer: Answer) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2] or len(content) - 1)) if asked else (0, len(content) - 1)
        body = bytearray(content[first : last + 1])
        if answer.flip:
            body[len(body) // 2] ^= 1
        if answer.clean and answer.cut_after is not None:
            body, answer = body[: answer.cut_after], Answer()
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        for name, value in {"Content-Length": str(len(body)), "Accept-Ranges": "bytes", **said}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = bytes(body if answer.cut_after is None else body[: answer.cut_after])
        self.wfile.write(sent)
        self.wfile.flush()
        self.hub.sent[file] += len(sent)
        if answer.until is not None:
            answer.until.wait()
        if len(sent) < len(body):
            self.close_connection = True  # and nothing more comes


def oid_of(file: str, content: bytes) -> str:
    if file.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(file: str, content: bytes) -> dict[str, Any]:
    told: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
    if file.endswith(LARGE):
        told["lfs"] = {"sha256": oid_of(file, content), "size": len(content), "pointerSize": 134}
    else:
        told["blobId"] = oid_of(file, content)
    return told


def _entry(file: str, content: bytes) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "file", "path": file, "size": len(content), "oid": oid_of("", content)}
    if file.endswith(LARGE):
        told["lfs"] = {"oid": oid_of(file, content), "size": len(content), "pointerSize": 134}
    return told


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """One that runs, and its content network."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    ports = [server.server_address[1] for server in servers]
    hub.url, hub.network_url = f"http://127.0.0.1:{ports[0]}", f"http://localhost:{ports[1]}"
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


def surroundings(hub: FakeHub, home: Path, token: str = "") -> dict[str, str]:
    """What a process is to find in its environment, for this hub to be the hub."""
    said = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "SHARDNET_CACHE": str(home / "shardnet")}
    return {**said, "HF_HUB_CACHE": str(home / "hf" / "hub"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": token}


def use(hub: FakeHub, home: Path, patch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let this process ask this hub; returns what sets the token. huggingface_hub has read its settings by now."""
    from huggingface_hub import constants

    for name, value in surroundings(hub, home).items():
        patch.setenv(name, value)
    for name, constant in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home / "hf"),
        "HF_HUB_CACHE": str(home / "hf" / "hub"),
        "HF_TOKEN_PATH": str(home / "hf" / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "hf" / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
    }.items():
        patch.setattr(f"huggingface_hub.constants.{name}", constant)
    assert hub.url == constants.ENDPOINT
    return lambda token: patch.setenv("HF_TOKEN", token)
