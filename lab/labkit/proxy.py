"""The apt cache of all labs: one process that listens on their bridges only and ends with the last lab."""

import http.server
import os
import signal
import socketserver
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO

from labkit import proxy_cache as rules
from labkit.clone import PROXY_PORT
from labkit.paths import CACHE
from labkit.record import all_records

APT_CACHE = CACHE / "apt"
UPSTREAM_TIMEOUT_S = 60
CHUNK = 1 << 18
PASSED_HEADERS = ("Content-Type", "Last-Modified")


class Store:
    """The cached files with one lock each and the times of their last check."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.Lock()
        self._locks: dict[Path, threading.Lock] = {}
        self.checked: dict[Path, float] = {}

    def lock(self, file: Path) -> threading.Lock:
        """The lock of a file."""
        with self._guard:
            return self._locks.setdefault(file, threading.Lock())


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one host's apt."""

    protocol_version = "HTTP/1.1"
    timeout = 300
    store: Store

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: apt says what fails."""

    def do_HEAD(self) -> None:
        """Answer like GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Serve from the cache, or fetch, keep and serve."""
        request = rules.classify(self.path, self.store.folder)
        if request is None:
            self._refuse(403, "only http URLs of package repositories are served")
            return
        with self.store.lock(request.file):
            cached = request.file.is_file()
            checked = self.store.checked.get(request.file)
            if not cached or rules.needs_check(request, checked, time.monotonic()):
                if self._fetch(request, cached):
                    return
                if not request.file.is_file():
                    return
        self._serve(request.file)

    def _fetch(self, request: rules.Request, cached: bool) -> bool:
        """Ask the origin. True when the client has been answered already (streamed, or an error)."""
        question = urllib.request.Request(request.url)  # noqa: S310 - classify() let only http pass
        if cached:
            question.add_header("If-Modified-Since", rules.http_date(request.file.stat().st_mtime))
        try:
            with urllib.request.urlopen(question, timeout=UPSTREAM_TIMEOUT_S) as answer:  # noqa: S310 - as above
                return self._keep(request, answer)
        except urllib.error.HTTPError as error:
            if error.code == 304:
                self.store.checked[request.file] = time.monotonic()
                return False
            self._refuse(error.code, error.reason)
            return True
        except (OSError, HTTPException) as error:
            if cached:
                return False
            self._refuse(504, f"{request.url}: {error}")
            return True

    def _keep(self, request: rules.Request, answer: HTTPResponse) -> bool:
        """Copy the answer to the client and, when it came whole, into the cache."""
        length = answer.headers.get("Content-Length")
        stream = length is not None and length.isdigit() and self.command == "GET"
        request.file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.store.folder, prefix=".part-") as part:
            if stream:
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                for name in PASSED_HEADERS:
                    if value := answer.headers.get(name):
                        self.send_header(name, value)
                self.end_headers()
            try:
                received = self._copy(answer, part.file, stream)
            except (OSError, HTTPException):
                # What was streamed is short of its declared length: apt notices and tries again.
                if stream:
                    self.close_connection = True
                    return True
                raise
            if not rules.length_matches(length, received):
                if stream:
                    self.close_connection = True
                    return True
                raise HTTPException(f"{received} bytes instead of {length}")
            part.flush()
            modified = rules.parse_date(answer.headers.get("Last-Modified"))
            if modified is not None:
                os.utime(part.name, (modified, modified))
            Path(part.name).chmod(0o644)
            request.file.unlink(missing_ok=True)
            os.link(part.name, request.file)
            self.store.checked[request.file] = time.monotonic()
        return stream

    def _copy(self, answer: HTTPResponse, part: IO[bytes], stream: bool) -> int:
        received = 0
        listening = stream
        while block := answer.read(CHUNK):
            part.write(block)
            received += len(block)
            if listening:
                try:
                    self.wfile.write(block)
                except OSError:
                    # The client is gone; the rest is still worth keeping.
                    listening = False
                    self.close_connection = True
        return received

    def _serve(self, file: Path) -> None:
        with file.open("rb") as source:
            state = os.fstat(source.fileno())
            if rules.not_modified(self.headers.get("If-Modified-Since"), state.st_mtime):
                self.send_response(304)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(state.st_size))
            self.send_header("Last-Modified", rules.http_date(state.st_mtime))
            self.end_headers()
            if self.command == "GET":
                with suppress(OSError):
                    self.connection.sendfile(source)

    def _refuse(self, code: int, reason: str) -> None:
        body = f"{reason}\n".encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Listens on one bridge."""

    daemon_threads = True
    allow_reuse_address = True

    def server_bind(self) -> None:
        """Bind without the look-up of the own name that the base class makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that breaks is apt's business, not ours."""


def listen(address: str, port: int, store: Store) -> Server:
    """Start serving on an address in a thread of its own."""
    handler = type("BoundHandler", (Handler,), {"store": store})
    server = Server((address, port), handler)
    # Connections wake the thread at once; the interval only bounds how long shutdown() takes.
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 5.0}, daemon=True).start()
    return server


def main() -> int:
    """Serve all labs that are up; look again on SIGHUP; end with the last lab or on SIGTERM."""
    wanted_signals = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted_signals)
    APT_CACHE.mkdir(parents=True, exist_ok=True)
    for part in APT_CACHE.glob(".part-*"):
        part.unlink()
    store = Store(APT_CACHE)
    servers: dict[str, Server] = {}
    while True:
        wanted = {record.gateway for record in all_records()}
        for address in set(servers) - wanted:
            gone = servers.pop(address)
            gone.shutdown()
            gone.server_close()
        for address in wanted - set(servers):
            try:
                servers[address] = listen(address, PROXY_PORT, store)
            except OSError as error:
                print(f"apt cache: cannot listen on {address}: {error}", flush=True)
        if not servers or signal.sigwait(wanted_signals) != signal.SIGHUP:
            return 0


if __name__ == "__main__":
    sys.exit(main())
