"""A hub of the tests' own: the real client is answered by a server on this machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    """Answers `/REPOSITORY/resolve/REVISION/FILE`."""

    server: "_Server"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        """Nothing: the tests look at `requests`."""

    def _answer(self, with_body: bool) -> None:
        _, _, rest = self.path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        self.server.requests.append(name)
        path = self.server.folder / name
        if self.server.failure is not None:
            status, headers = self.server.failure
            self._send(status, headers)
        elif revision not in ("main", COMMIT):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif not path.is_file():
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            content = path.read_bytes()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(content).hexdigest()}"'}
            self._send(200, headers, content, with_body)

    def _send(
        self, status: int, headers: dict[str, str], content: bytes = b"", with_body: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.failure: tuple[int, dict[str, str]] | None = None
        self.requests: list[str] = []


@contextmanager
def hub_of(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    """A hub on which every repository has the files of `folder`.

    `failure` of what this gives, a status and headers, is its answer to whatever it is asked.
    """
    server = _Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
