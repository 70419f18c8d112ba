"""A hub of the tests' own: the real clients are answered by a server on this machine.

It speaks as much of the hub's protocol as downloads and uploads need: files by revision with ETag
and range, trees, who somebody is, making a repository, and a commit after its large files.
"""

import base64
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import datasets
import pytest
import tiny_experiments
from hub_contents import COMMIT, LARGE, Repository, file_entry, folder_entry, oid_of
from huggingface_hub import constants

Answer = tuple[int, dict[str, str]]  # a status and headers


class Hub(ThreadingHTTPServer):
    """The server, and what it knows.

    Attributes:
        repositories: by name, those of data sets with `datasets/` before it.
        folder: what every other repository holds; None: there is none.
        failure: an answer to whatever is asked.
        failures: answers by a pattern of the method and the path, each given so many times.
        breaks: how often the connection ends in the middle of a file.
        requests: names of files that were asked for.
        ranges: parts of files that were asked for.
        asked: method and path of every request.
        tokens: what each may do: read or write.
        user: whose they are.
        organisations: of the user, with the role there.
        large: what was uploaded before a commit, by its SHA-256.
        says_xet: whether it sends clients to a storage for large files, which it does not have.
    """

    daemon_threads = True

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.repositories: dict[str, Repository] = {}
        self.failure: Answer | None = None
        self.failures: dict[str, tuple[int, Answer]] = {}
        self.breaks = 0
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.asked: list[str] = []
        self.tokens: dict[str, str] = {}
        self.user = "someone"
        self.organisations: dict[str, str] = {}
        self.large: dict[str, bytes] = {}
        self.says_xet = False

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def repository(self, name: str) -> Repository | None:
        """A repository, or what stands for every other one."""
        if name in self.repositories or self.folder is None:
            return self.repositories.get(name)
        files = {path: self.folder / path for path in _paths(self.folder)}
        return Repository({COMMIT: {name: path.read_bytes() for name, path in files.items()}})

    def answer_instead(self, request: str) -> Answer | None:
        """What a request is answered with where it is not answered as it should be."""
        if self.failure is not None:
            return self.failure
        for pattern, (times, answer) in self.failures.items():
            if times and re.search(pattern, request):
                self.failures[pattern] = times - 1, answer
                return answer
        return None


def _paths(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing: the tests look at `asked`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        address = urlsplit(self.path)
        self.path = unquote(address.path)
        self.recursive = parse_qs(address.query).get("recursive", ["false"])[0].lower() == "true"
        self.body = self._read()
        request = f"{self.command} {self.path}"
        self.server.asked.append(request)
        if "/resolve/" in self.path:
            self.server.requests.append(self.path.partition("/resolve/")[2].partition("/")[2])
        instead = self.server.answer_instead(request)
        if instead is not None:
            self._send(*instead)
            return
        for pattern, method in _ROUTES:
            match = re.fullmatch(pattern, request)
            if match is not None:
                getattr(self, method)(*match.groups())
                return
        self._send(404, {"X-Error-Code": "EntryNotFound"})

    def _read(self) -> bytes:
        """What the request sends, whole or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    # Who asks

    @property
    def _may(self) -> str | None:
        """What the token of the request may do; None where there is none, or a wrong one."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return self.server.tokens.get(token)

    def _repository(self, name: str) -> Repository | None:
        """A repository that may be seen; else the answer has been sent."""
        found = self.server.repository(name)
        if found is None or (found.is_private and self._may is None):
            self._send(401 if self._may is None else 404, {"X-Error-Code": "RepoNotFound"})
            return None
        return found

    def _at(self, name: str, revision: str) -> tuple[Repository, str] | None:
        """A repository that may be seen and the commit of a revision; else it was answered."""
        repository = self._repository(name)
        if repository is None:
            return None
        commit = repository.commit_of(revision)
        if commit is None:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, commit

    def whoami(self) -> None:
        role = self._may
        if role is None:
            message = "Invalid credentials in Authorization header"
            self._send(401, {"X-Error-Message": message})
            return
        organisations = self.server.organisations.items()
        orgs = [{"name": name, "roleInOrg": role} for name, role in organisations]
        token = {"accessToken": {"role": role}}
        self._json({"name": self.server.user, "orgs": orgs, "auth": token})

    # Reading

    def resolve(self, name: str, revision: str, file: str) -> None:
        found = self._at(name, revision)
        if found is None:
            return
        repository, commit = found
        content = repository.files[commit].get(file)
        if repository.is_gated:
            self._send(403, {"X-Error-Code": "GatedRepo"})
        elif content is None:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            headers = {"X-Repo-Commit": commit, "ETag": f'"{sha256(content).hexdigest()}"'}
            if self.server.says_xet and file.endswith(LARGE):
                token = f"{self.server.endpoint}/api/models/{name}/xet-read-token/{commit}"
                headers |= {"X-Xet-Hash": "0" * 64, "Link": f'<{token}>; rel="xet-auth"'}
            self._send_content(content, headers | {"Accept-Ranges": "bytes"})

    def _send_content(self, content: bytes, headers: dict[str, str]) -> None:
        """A file, or the part of it that is asked for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if match is None:
            self._send(200, headers, content, may_break=True)
            return
        self.server.ranges.append(match[0])
        first, last = int(match[1]), int(match[2] or len(content) - 1)
        if first >= len(content):
            self._send(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        last = min(last, len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, headers, content[first : last + 1], may_break=True)

    def info(self, kind: str, name: str, revision: str | None) -> None:
        name = name if kind == "models" else f"{kind}/{name}"
        found = self._at(name, revision or "main")
        if found is None:
            return
        repository, commit = found
        siblings = [{"rfilename": file} for file in repository.files[commit]]
        about = {"id": name.removeprefix("datasets/"), "sha": commit, "siblings": siblings}
        about |= {"private": repository.is_private, "gated": repository.is_gated}
        self._json(about | {"tags": [], "downloads": 0, "likes": 0})

    def tree(self, kind: str, name: str, revision: str, folder: str | None) -> None:
        found = self._at(name if kind == "models" else f"{kind}/{name}", revision)
        if found is None:
            return
        repository, commit = found
        prefix = f"{folder.strip('/')}/" if folder and folder.strip("/") else ""
        files = repository.files[commit].items()
        below = {path: content for path, content in files if path.startswith(prefix)}
        if prefix and not below:
            self._send(404, {"X-Error-Code": "EntryNotFound"})
            return
        found_folders = {str(one) for path in below for one in Path(path).parents} - {"."}
        inside = [folder_entry(one) for one in sorted(found_folders) if one.startswith(prefix)]
        inside += [file_entry(path, content) for path, content in below.items()]
        if not self.recursive:
            inside = [one for one in inside if "/" not in one["path"].removeprefix(prefix)]
        self._json(inside)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        found = self._at(name if kind == "models" else f"{kind}/{name}", revision)
        if found is None:
            return
        files = found[0].files[found[1]]
        wanted = json.loads(self.body)["paths"]
        self._json([file_entry(path, files[path]) for path in wanted if path in files])

    # Writing

    def _may_write(self, name: str) -> bool:
        """Whether the token may write into a repository; else the answer has been sent."""
        owner = name.partition("/")[0]
        roles = self.server.organisations | {self.server.user: "admin"}
        if self._may == "write" and roles.get(owner, "read") != "read":
            return True
        message = "You don't have the rights to create a model under this namespace"
        self._send(403, {"X-Error-Message": message})
        return False

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or self.server.user}/{asked['name']}"
        if not self._may_write(name):
            return
        there = name in self.server.repositories
        if not there:
            is_private = asked.get("visibility", "public") == "private"
            self.server.repositories[name] = Repository({COMMIT: {}}, is_private=is_private)
        self._json({"url": f"{self.server.endpoint}/{name}"}, 409 if there else 200)

    def auth_check(self, name: str, write: str | None) -> None:
        if self._repository(name) is not None and (write is None or self._may_write(name)):
            self._json({})

    def validate(self) -> None:
        content = json.loads(self.body)["content"]
        if "license: invented" in content:
            self._json({"errors": [{"message": '"license" must be one of [...]'}]}, 400)
        else:
            self._json({"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        found = self._at(name, revision)
        if found is None or not self._may_write(name):
            return
        files, answers = found[0].files[found[1]], []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            mode = "lfs" if path.endswith(LARGE) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
            if path in files:
                answers[-1]["oid"] = oid_of(path, files[path])
        self._json({"files": answers})

    def large_files(self, name: str) -> None:
        if not self._may_write(name):
            return
        objects = []
        for one in json.loads(self.body)["objects"]:
            about: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.server.large:
                address = f"{self.server.endpoint}/large/{one['oid']}"
                about["actions"] = {"upload": {"href": address, "header": {}}}
            objects.append(about)
        self._json({"transfer": "basic", "objects": objects})

    def put_large(self, oid: str) -> None:
        assert sha256(self.body).hexdigest() == oid
        self.server.large[oid] = self.body
        self._json({})

    def commit(self, name: str, revision: str) -> None:
        found = self._at(name, revision)
        if found is None or not self._may_write(name):
            return
        files, message = {}, ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        oid = found[0].add(files, message)
        self._json({"commitUrl": f"{self.server.endpoint}/{name}/commit/{oid}", "commitOid": oid})

    # Sending

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(
        self, status: int, headers: dict[str, str], content: bytes = b"", may_break: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if may_break and self.server.breaks and len(content) > 1:
            self.server.breaks -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    (r"(?:GET|HEAD) /((?:datasets/)?[\w.-]+(?:/[\w.-]+)?)/resolve/([^/]+)/(.+)", "resolve"),
    (r"GET /api/whoami-v2", "whoami"),
    (rf"GET /api/(models|datasets)/{_NAME}/tree/([^/]+)(/.*)?", "tree"),
    (rf"POST /api/(models|datasets)/{_NAME}/paths-info/([^/]+)", "paths_info"),
    (rf"GET /api/models/{_NAME}/auth-check(/write)?", "auth_check"),
    (rf"GET /api/(models|datasets)/{_NAME}(?:/revision/([^/]+))?", "info"),
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST /api/models/{_NAME}/preupload/([^/]+)", "preupload"),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", "large_files"),
    (r"PUT /large/([0-9a-f]{64})", "put_large"),
    (rf"POST /api/models/{_NAME}/commit/([^/]+)", "commit"),
]


@contextmanager
def hub_of(folder: Path | None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on which every repository has the files of `folder`, unless it is given others.

    Large files go by plain HTTP: of the storage that the hub has for them there is no server here.
    """
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    use_hub(server.endpoint, cache, monkeypatch)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_hub(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clients in this process ask a hub, by the names that they have read already."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


def command(endpoint: str, cache: str, token: str, *arguments: str) -> None:
    """A command in a process of its own, whose clients ask a hub."""
    use_hub(endpoint, Path(cache), pytest.MonkeyPatch())
    os.environ["HF_TOKEN"] = token
    tiny_experiments._main(*arguments)
