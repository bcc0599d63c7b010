"""What is dropped, compressed and rolled up of a hypertable: declared once, for every edition of TimescaleDB.

Where the edition has policies (Community), they are TimescaleDB's own. Where it has none (Apache, and plain
PostgreSQL), functions that systemd timers call do the same, and here it is proven that they are there;
nothing compresses there. Standard library only (psycopg2 comes in with the connection): Ansible ships this
file to the host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import policy_state
from .policy_declaration import Declaration, PolicyError, Retention, split_name
from .policy_timers import ReadTimer, require, require_interval

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

PLAIN, APACHE, COMMUNITY = "plain", "apache", "community"
POLICY, TIMER = "policy", "timer"
_NAMES = {
    PLAIN: "PostgreSQL without TimescaleDB",
    APACHE: "TimescaleDB's Apache edition",
    COMMUNITY: "TimescaleDB's Community edition",
}
_EDITION = """
SELECT n.nspname, current_setting('timescaledb.license', true)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'timescaledb'
"""


@dataclass(frozen=True)
class Result:
    """What was found and done. ``enforced_by`` has ``policy`` or ``timer`` for what is declared.

    ``before`` and ``after`` are TimescaleDB's policies, empty on an edition that has none.
    """

    edition: str
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    actions: tuple[str, ...] = ()
    enforced_by: dict[str, str] = field(default_factory=dict)
    unsupported_by_edition: tuple[str, ...] = ()


def converge(
    connection: Connection,
    wanted: Declaration,
    *,
    read_timer: ReadTimer,
    check: bool = False,
    owner: str | None = None,
) -> Result:
    """Give a hypertable what is declared, in one transaction, and read it back. ``check`` changes nothing.

    ``owner`` is the role that acts. Raises PolicyError, and psycopg2's errors for what the database refuses;
    nothing is changed then.
    """
    from psycopg2 import sql

    wanted.check()
    connection.rollback()
    try:
        with connection.cursor() as cursor:
            if owner:
                cursor.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))
            result = _converge(cursor, wanted, read_timer, check)
        if not check:
            connection.commit()
        return result
    finally:
        connection.rollback()


def read_edition(cursor: Cursor) -> tuple[str, str]:
    """Return the edition, and the schema of the extension's functions (empty without one)."""
    cursor.execute(_EDITION)
    row = cursor.fetchone()
    if row is None:
        return PLAIN, ""
    return (COMMUNITY if row[1] == "timescale" else APACHE), str(row[0])


def _converge(cursor: Cursor, wanted: Declaration, read_timer: ReadTimer, check: bool) -> Result:
    edition, schema = read_edition(cursor)
    _require_table(cursor, wanted.hypertable, edition)
    _require_order(cursor, wanted)
    enforced = _enforced_by(cursor, wanted, edition)
    unsupported: tuple[str, ...] = ()
    if wanted.compression and edition != COMMUNITY:
        if wanted.compression.required:
            raise PolicyError(
                f"compression of {wanted.hypertable} needs TimescaleDB's Community edition; this is "
                f"{_NAMES[edition]}. Declare it as not required, or install that edition"
            )
        unsupported = ("compression",)
    if wanted.retention:
        _prove_retention(cursor, wanted.retention, enforced["retention"], read_timer)
    if wanted.refresh and enforced["refresh"] == TIMER:
        require(cursor, "refresh", wanted.refresh.worker, read_timer)
    if edition != COMMUNITY:
        return Result(edition, enforced_by=enforced, unsupported_by_edition=unsupported)
    before = policy_state.read(cursor, wanted)
    after = policy_state.target(cursor, wanted, before, enforced)
    steps = list(policy_state.steps(schema, wanted, before, after))
    if not check:
        for step in steps:
            cursor.execute(step.statement, step.values)
        found = policy_state.read(cursor, wanted) if steps else after
        if found != after:
            raise PolicyError(f"{wanted.hypertable}: TimescaleDB has {found} after {after} was set")
    return Result(edition, before, after, tuple(step.text for step in steps), enforced)


def _require_table(cursor: Cursor, name: str, edition: str) -> None:
    schema, table = split_name(name)
    cursor.execute("SELECT to_regclass(format('%%I.%%I', %s, %s)) IS NOT NULL", (schema, table))
    if cursor.fetchone() != (True,):
        raise PolicyError(f"the database has no table {name}; run the migrations first")
    if edition == PLAIN:
        return
    cursor.execute(
        "SELECT FROM timescaledb_information.hypertables"
        " WHERE hypertable_schema = %s AND hypertable_name = %s",
        (schema, table),
    )
    if cursor.fetchone() is None:
        raise PolicyError(f"{name} is not a hypertable")


def _require_order(cursor: Cursor, wanted: Declaration) -> None:
    """Refuse to compress what is dropped before."""
    if not (wanted.retention and wanted.compression):
        return
    compress, drop = wanted.compression.compress_after, wanted.retention.drop_after
    policy_state.interval(cursor, compress)
    policy_state.interval(cursor, drop)
    cursor.execute("SELECT %s::interval < %s::interval", (compress, drop))
    if cursor.fetchone() != (True,):
        raise PolicyError(
            f"{wanted.hypertable}: rows are dropped after {drop}: compressing after {compress} is in vain"
        )


def _enforced_by(cursor: Cursor, wanted: Declaration, edition: str) -> dict[str, str]:
    enforced: dict[str, str] = {}
    if wanted.retention:
        by = wanted.retention.by
        if by == POLICY and edition != COMMUNITY:
            raise PolicyError(f"retention by a policy is declared, but {_NAMES[edition]} has no policies")
        enforced["retention"] = (POLICY if edition == COMMUNITY else TIMER) if by == "auto" else by
    if wanted.compression and edition == COMMUNITY:
        enforced["compression"] = POLICY
    if wanted.refresh:
        # A rollup of one's own has no policy in any edition.
        native = edition == COMMUNITY and policy_state.is_continuous_aggregate(cursor, wanted.refresh.view)
        enforced["refresh"] = POLICY if native else TIMER
    return enforced


def _prove_retention(cursor: Cursor, wanted: Retention, by: str, read_timer: ReadTimer) -> None:
    if by == TIMER:
        text = require(cursor, "retention", wanted.worker, read_timer)
        assert wanted.worker is not None
        require_interval(cursor, text, wanted.worker, wanted.drop_after)
    elif wanted.worker and read_timer(wanted.worker.timer) is not None:
        # A policy keeps no book of what it drops, and makes no last rollup: the two must not be mixed.
        raise PolicyError(
            f"{wanted.worker.timer}.timer drops these rows already: declare the retention `by: timer`, "
            "or disable that timer"
        )
