"""The apt cache: its rules, and the real server before an origin that counts, lies and dies."""

import http.client
import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from labkit import proxy, proxy_cache

CACHE = Path("/cache")


@pytest.mark.parametrize(
    ("url", "file", "immutable"),
    [
        (
            "http://deb.debian.org/debian/pool/main/r/redis/redis_8.0+x~1_amd64.deb",
            "redis_8.0+x~1_amd64.deb",
            True,
        ),
        ("http://deb.debian.org/debian/dists/trixie/main/by-hash/SHA256/abc", "abc", True),
        ("http://deb.debian.org/debian/dists/trixie/InRelease", "InRelease", False),
        ("http://deb.debian.org/debian/pool/a%2bb.deb", "a+b.deb", True),
    ],
)
def test_what_is_kept(url: str, file: str, immutable: bool) -> None:
    request = proxy_cache.classify(url, CACHE)
    assert request is not None
    assert request.file.name == file
    assert request.file.is_relative_to(CACHE / "deb.debian.org")
    assert request.immutable is immutable


@pytest.mark.parametrize(
    "url",
    ["https://deb.debian.org/a", "/local/path", "http://deb.debian.org/../../etc/passwd",
     "http://deb.debian.org/a/%2e%2e/b", "http://deb.debian.org/a%2f..%2fb", "http://../x", "http://a/?q=1",
     "http://a/b//c", "http://a/", "http://a/%00"],
)  # fmt: skip
def test_what_is_refused(url: str) -> None:
    assert proxy_cache.classify(url, CACHE) is None


def test_another_port_is_another_place() -> None:
    request = proxy_cache.classify("http://a:8080/x.deb", CACHE)
    assert request is not None
    assert request.file == CACHE / "a_8080" / "x.deb"


def test_index_is_checked_again_after_a_minute() -> None:
    index = proxy_cache.Request("u", CACHE / "InRelease", immutable=False)
    package = proxy_cache.Request("u", CACHE / "a.deb", immutable=True)
    assert proxy_cache.needs_check(index, None, 100)
    assert not proxy_cache.needs_check(index, 90, 100)
    assert proxy_cache.needs_check(index, 10, 100)
    assert not proxy_cache.needs_check(package, None, 100)


def test_dates() -> None:
    date = proxy_cache.http_date(1_700_000_000)
    assert proxy_cache.parse_date(date) == 1_700_000_000
    assert proxy_cache.parse_date("yesterday") is None
    assert proxy_cache.not_modified(date, 1_700_000_000.4)
    assert not proxy_cache.not_modified(date, 1_700_000_001)
    assert not proxy_cache.not_modified(None, 1)


class Origin(http.server.BaseHTTPRequestHandler):
    """A package server that counts what it is asked."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[Counter[tuple[str, int]]] = Counter()
    body = b"x" * 300_000
    modified = 1_700_000_000.0

    def log_message(self, *_arguments: object) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[1]
        code = 404 if name == "missing.deb" else 200
        if proxy_cache.not_modified(self.headers.get("If-Modified-Since"), type(self).modified):
            code = 304
        self.seen[name, code] += 1
        self.send_response(code)
        if code == 200:
            self.send_header("Last-Modified", proxy_cache.http_date(type(self).modified))
        length = len(type(self).body) if code == 200 else 0
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if code == 200:
            self.wfile.write(type(self).body[: 1000 if name == "short.deb" else None])
        if name == "short.deb":
            self.close_connection = True


class Stage:
    """Cache and origin together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        threading.Thread(target=self.origin.serve_forever, args=(0.02,), daemon=True).start()
        self.store = proxy.Store(folder)
        handler = type("BoundHandler", (proxy.Handler,), {"store": self.store})
        self.server = proxy.Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def get(self, name: str, **headers: str) -> tuple[int, bytes]:
        """Fetch a file of the origin through the cache."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=10)
        url = f"http://127.0.0.1:{self.origin.server_port}/debian/{name}"
        connection.request(
            "GET", url, headers={key.replace("_", "-"): value for key, value in headers.items()}
        )
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    def forget_checks(self) -> None:
        """As if a minute had passed."""
        self.store.checked.clear()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    Origin.seen = Counter()
    Origin.body = b"x" * 300_000
    Origin.modified = 1_700_000_000.0
    made = Stage(tmp_path)
    yield made
    for server in (made.server, made.origin):
        server.shutdown()
        server.server_close()


def test_package_is_fetched_once(stage: Stage) -> None:
    assert [stage.get("a.deb") for _ in range(3)] == [(200, Origin.body)] * 3
    assert Origin.seen == {("a.deb", 200): 1}


def test_many_hosts_that_want_a_package_at_once_cause_one_fetch(stage: Stage) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: stage.get("a.deb"), range(6)))
    assert answers == [(200, Origin.body)] * 6
    assert Origin.seen["a.deb", 200] == 1


def test_index_is_revalidated_and_replaced(stage: Stage) -> None:
    stage.get("InRelease")
    stage.get("InRelease")
    assert Origin.seen == {("InRelease", 200): 1}
    stage.forget_checks()
    assert stage.get("InRelease") == (200, Origin.body)
    assert Origin.seen["InRelease", 304] == 1
    Origin.body, Origin.modified = b"new", 1_700_000_100.0
    stage.forget_checks()
    assert stage.get("InRelease") == (200, b"new")


def test_client_with_the_newest_index_gets_304(stage: Stage) -> None:
    stage.get("InRelease")
    date = proxy_cache.http_date(Origin.modified)
    assert stage.get("InRelease", If_Modified_Since=date) == (304, b"")


def test_without_the_origin_the_cache_goes_on(stage: Stage) -> None:
    stage.get("InRelease")
    stage.get("a.deb")
    stage.origin.shutdown()
    stage.origin.server_close()
    stage.forget_checks()
    assert stage.get("InRelease") == (200, Origin.body)
    assert stage.get("a.deb")[0] == 200
    assert stage.get("b.deb")[0] == 504


def test_truncated_package_is_not_kept(stage: Stage) -> None:
    with pytest.raises(http.client.IncompleteRead):
        stage.get("short.deb")
    assert [path for path in stage.folder.rglob("*") if path.is_file()] == []


def test_errors_pass_and_are_not_kept(stage: Stage) -> None:
    assert stage.get("missing.deb")[0] == 404
    assert stage.get("missing.deb")[0] == 404
    assert Origin.seen["missing.deb", 404] == 2


def test_nothing_but_package_urls_is_served(stage: Stage) -> None:
    assert stage.get("../../etc/passwd")[0] == 403
