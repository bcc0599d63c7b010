"""One way to connect to PostgreSQL: every host goes to libpq, which finds the writable one.

Standard library only (psycopg2 is imported when a connection is made), so that Ansible can ship this file
to a host. Needed there: ``python3-psycopg2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

# With `require` a client goes on only with the server that knows its password and at which its TLS ends;
# another cannot even ask for the password. It needs no authority, but no pool between: PgBouncer lacks it.
CHANNEL_BINDINGS = ("disable", "prefer", "require")
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRIBUTES = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
DEFAULT_PORT = 5432


class SettingsError(ValueError):
    """The connection settings are incomplete or wrong; the message names the key."""


def parameters(
    settings: Mapping[str, Any],
    *,
    application_name: str = "stationkeeper",
    connect_timeout_s: int = 5,
    tcp_user_timeout_s: float = 10.0,
    target_session_attrs: str = "read-write",
) -> dict[str, str]:
    """Translate settings to libpq parameters.

    ``settings`` has ``hosts`` (a list of names, addresses or socket directories), ``name`` (of the database),
    ``user``, and optionally ``port``, ``password``, ``sslmode`` (``prefer``), ``sslrootcert``,
    ``channel_binding`` (``prefer``), and ``application_name`` instead of the caller's. Time-outs are in
    seconds and hold for each host. Raises SettingsError.
    """
    hosts = settings.get("hosts")
    if isinstance(hosts, str) or not hosts:
        raise SettingsError("database setting 'hosts' must be a list with at least one host")
    for key in ("name", "user"):
        if not settings.get(key):
            raise SettingsError(f"database setting '{key}' is missing")
    sslmode = str(settings.get("sslmode") or "prefer")
    if sslmode not in SSL_MODES:
        raise SettingsError(f"database setting 'sslmode' is {sslmode!r}; use one of {', '.join(SSL_MODES)}")
    binding = str(settings.get("channel_binding") or "prefer")
    if binding not in CHANNEL_BINDINGS:
        allowed = ", ".join(CHANNEL_BINDINGS)
        raise SettingsError(f"database setting 'channel_binding' is {binding!r}; use one of {allowed}")
    if target_session_attrs not in SESSION_ATTRIBUTES:
        raise SettingsError(f"target_session_attrs {target_session_attrs!r} is unknown to libpq")
    result = {
        "host": ",".join(str(host) for host in hosts),
        "port": str(settings.get("port") or DEFAULT_PORT),
        "dbname": str(settings["name"]),
        "user": str(settings["user"]),
        "sslmode": sslmode,
        "channel_binding": binding,
        "application_name": str(settings.get("application_name") or application_name),
        "connect_timeout": str(connect_timeout_s),
        # Without it a cut cable is noticed after about 15 minutes, when TCP gives up.
        "tcp_user_timeout": str(int(tcp_user_timeout_s * 1000)),
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "target_session_attrs": target_session_attrs,
        # Times in text are UTC whatever the server's zone is.
        "options": "-c TimeZone=UTC",
    }
    for key in ("password", "sslrootcert"):
        if settings.get(key):
            result[key] = str(settings[key])
    return result


def connect(
    settings: Mapping[str, Any],
    *,
    application_name: str = "stationkeeper",
    connect_timeout_s: int = 5,
    tcp_user_timeout_s: float = 10.0,
    target_session_attrs: str = "read-write",
) -> Connection:
    """Connect and return a psycopg2 connection (autocommit off, session time zone UTC).

    Raises SettingsError for bad settings and ``psycopg2.OperationalError`` when no host of the list is
    reachable and fits ``target_session_attrs``. The time-outs are in seconds and hold for each host.
    """
    import psycopg2
    from psycopg2.extensions import make_dsn

    dsn = make_dsn(
        **parameters(
            settings,
            application_name=application_name,
            connect_timeout_s=connect_timeout_s,
            tcp_user_timeout_s=tcp_user_timeout_s,
            target_session_attrs=target_session_attrs,
        )
    )
    connection: Connection = psycopg2.connect(dsn)
    return connection
