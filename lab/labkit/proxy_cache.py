"""What the apt cache keeps, where, and for how long. Pure rules; the server is in `proxy`."""

import re
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
# A repository index that was checked this recently is served unasked, so that all hosts see the same state.
FRESH_S = 60.0


@dataclass(frozen=True)
class Request:
    """A cacheable request: where it goes, where it is kept, and whether it can ever change."""

    url: str
    file: Path
    immutable: bool


def classify(url: str, cache: Path) -> Request | None:
    """Say how to serve a URL from the cache; None for what is not cached at all."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    path = unquote(parts.path)
    if parts.scheme != "http" or not HOST.fullmatch(host) or parts.query:
        return None
    names = path.split("/")[1:]
    if not names or any(name in ("", ".", "..") or "\0" in name for name in names):
        return None
    place = host if parts.port in (None, 80) else f"{host}_{parts.port}"
    immutable = "by-hash" in names or names[-1].endswith((".deb", ".udeb"))
    return Request(url, cache.joinpath(place, *names), immutable)


def http_date(modified: float) -> str:
    """UNIX seconds as an HTTP date."""
    return formatdate(modified, usegmt=True)


def parse_date(text: str | None) -> float | None:
    """HTTP date as UNIX seconds; None when there is none or it is nonsense."""
    if not text:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return None


def not_modified(if_modified_since: str | None, modified: float) -> bool:
    """True when the client's copy is as new as the cached one."""
    since = parse_date(if_modified_since)
    return since is not None and since >= int(modified)


def needs_check(request: Request, checked: float | None, now: float) -> bool:
    """True when the origin must be asked whether the cached copy is still the newest."""
    if request.immutable:
        return False
    return checked is None or now - checked > FRESH_S


def length_matches(declared: str | None, received: int) -> bool:
    """True unless the origin declared another length than what came."""
    return declared is None or not declared.isdigit() or int(declared) == received
