"""The studio's page and its few requests, over the standard library's HTTP server.

It answers this machine only, under this machine's own name, and takes orders as JSON alone: a page of another site that
is open in the same browser can neither read what is here nor give orders.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from headsculpt.studio.jobs import PRESETS, Jobs, newest_picture

PAGE = Path(__file__).with_name("page")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".webp": "image/webp",
    ".glb": "model/gltf-binary",
    ".zip": "application/zip",
}
OTHER = "application/octet-stream"
FILES = ("avatar.glb", "turntable.webp", "preview.png")  # of a run; "picture" is its newest strip of views
EXPORTS = {"avatar.obj.zip": ".obj", "avatar.ply": ".ply"}  # made when they are asked for
LONGEST = 100_000  # bytes of an order


class Refused(Exception):
    """What a request cannot have; its status and the sentence that says why."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class Studio(ThreadingHTTPServer):
    """The server; ``serve_forever`` works until ``shutdown``, and ``server_close`` stops the run that is at work.

    Args:
        folder: of run folders.
        port: of 127.0.0.1; 0 takes any that is free.

    Raises:
        OSError: the port is taken, or the folder cannot be made.
    """

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it means that two may have one port

    def __init__(self, folder: str | Path, port: int = 7860) -> None:
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise type(error)(f"port {port} cannot be had ({error.strerror}); give --port another, or 0") from None
        self.jobs = Jobs(folder)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def server_close(self) -> None:
        super().server_close()
        if hasattr(self, "jobs"):
            self.jobs.close()


def serve(folder: str | Path, port: int = 7860, *, browser: bool = True) -> None:
    """Serves the studio until Ctrl-C.

    Args:
        folder, port: as in :class:`Studio`.
        browser: open the page.
    """
    studio = Studio(folder, port)
    print(f"studio of {Path(folder)} at {studio.address} (Ctrl-C ends it, and keeps the work)", flush=True)
    for name in ("SIGTERM", "SIGHUP"):  # a closed window or a lost connection, too
        if hasattr(signal, name) and threading.current_thread() is threading.main_thread():
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        if browser:  # some browsers return only when they are closed
            threading.Thread(target=webbrowser.open, args=(studio.address,), daemon=True).start()
        studio.serve_forever()
    except KeyboardInterrupt:
        print("closing: what is at work is kept", flush=True)
    finally:
        studio.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Studio
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the page asks every second."""

    def _answer(self, method: Callable[[str], tuple[str, bytes]]) -> None:
        try:
            self._check_host()
            status = HTTPStatus.OK
            kind, content = method(unquote(urlsplit(self.path).path))
        except Refused as refused:
            self.close_connection = True  # what was sent may not have been read
            status = refused.status
            kind, content = _json({"error": str(refused)})
        except (ValueError, OSError) as error:
            status = HTTPStatus.BAD_REQUEST
            kind, content = _json({"error": str(error)})
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            kind, content = _json({"error": f"{type(error).__name__}: {error} (a defect of headsculpt)"})
        # A picture's address changes with it.
        kept = status == HTTPStatus.OK and self.path.startswith("/heads/") and "?" in self.path
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "private, max-age=31536000, immutable" if kept else "no-store")
            self.send_header("Content-Security-Policy", "frame-ancestors 'none'")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:
            self.close_connection = True  # the page went away

    def _check_host(self) -> None:
        """A site whose name was made to point here asks under that name."""
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host not in ("127.0.0.1", "localhost"):
            raise Refused(HTTPStatus.FORBIDDEN, f"the studio answers to 127.0.0.1 and localhost; asked as {host!r}")

    def _get(self, path: str) -> tuple[str, bytes]:
        if path == "/api/heads":
            return _json({"heads": self.server.jobs.heads(), "presets": PRESETS})
        parts = path.strip("/").split("/")
        if parts[0] == "heads" and len(parts) == 3 and parts[2] in EXPORTS:
            return KINDS.get(Path(parts[2]).suffix, OTHER), self.server.jobs.exported(parts[1], EXPORTS[parts[2]])
        if parts[0] == "heads" and len(parts) == 3:
            return _read(self._file_of(parts[1], parts[2]))
        name = parts[0] or "index.html"
        if len(parts) == 1 and name in (file.name for file in PAGE.iterdir()):
            return _read(PAGE / name)
        raise Refused(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")

    def _file_of(self, name: str, file: str) -> Path:
        run = self.server.jobs.run(name)
        path = newest_picture(run) if file == "picture" else run.path / file if file in FILES else None
        if path is None or not path.is_file():
            raise Refused(HTTPStatus.NOT_FOUND, f"{name!r} has no {file}")
        return path

    def _post(self, path: str) -> tuple[str, bytes]:
        jobs, given = self.server.jobs, self._order()
        if path == "/api/generate":
            preset, seed = given.get("preset", "mini"), given.get("seed", 0)
            if not isinstance(seed, int) or isinstance(seed, bool):
                raise ValueError(f"seed must be a whole number; got {seed!r}")
            return _json({"name": jobs.generate(_text(given, "prompt"), str(preset), seed)})
        if path == "/api/edit":
            strength = given.get("strength")
            if strength is not None and (isinstance(strength, bool) or not isinstance(strength, (int, float))):
                raise ValueError(f"strength must be a number; got {strength!r}")
            return _json({"name": jobs.edit(_text(given, "source"), _text(given, "instruction"), strength)})
        if path == "/api/resume":
            jobs.resume(_text(given, "name"))
            return _json({})
        if path == "/api/stop":
            jobs.stop(_text(given, "name"))
            return _json({})
        raise Refused(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")

    def _order(self) -> dict[str, Any]:
        """The JSON object that was sent. Forms and plain text, which any page may send anywhere, are refused."""
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "orders are application/json")
        length = self.headers.get("Content-Length") or ""
        if not length.isdigit() or int(length) > LONGEST:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"an order has at most {LONGEST} bytes")
        given = json.loads(self.rfile.read(int(length)).decode("utf-8"))
        if not isinstance(given, dict):
            raise ValueError(f"an order is a JSON object; got {type(given).__name__}")
        return given


def _text(given: dict[str, Any], name: str) -> str:
    if not isinstance(given.get(name), str):
        raise ValueError(f"{name} must be text; got {given.get(name)!r}")
    return given[name]


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


def _read(path: Path) -> tuple[str, bytes]:
    return KINDS.get(path.suffix, OTHER), path.read_bytes()
