"""Credentials are rotated under clients that notice nothing; no value is refused that a host still needs.

Before test_02_failover, whose site.yml finds nothing to change afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import redis

from stationkeeper.secrets.files import read
from stationkeeper.secrets.vault import folder_of
from system import LabSystem

NAME = "secret_redis_flux_password"
EXPORTER = "secret_redis_exporter_password"
JOBS = "secret_flux_jobs_password"
WRITER = "secret_flux_writer_password"
REPLICATOR = "secret_flux_replicator_password"
REWIND = "secret_flux_rewind_password"
LOG = "/root/credential_client.log"
# A client as a service is one: it logs in with what stands in its file, writes and reads. Ten times a second,
# in Redis, in the database and in the database through the pool.
CLIENT = """
import json, pathlib, socket, time
import psycopg2
config = pathlib.Path('/etc/stationkeeper/jobs.json')
def ask(stream, *words):
    parts = [str(word).encode() for word in words]
    stream.write(b'*%d\\r\\n' % len(parts) + b''.join(b'$%d\\r\\n%s\\r\\n' % (len(p), p) for p in parts))
    stream.flush()
    line = stream.readline()
    return stream.read(int(line[1:]) + 2)[:-2].decode() if line[:1] == b'$' else line.decode().strip()
number = 0
while True:
    number += 1
    try:
        given = json.loads(config.read_text())['redis']
        with socket.create_connection((given['host'], given['port']), timeout=5) as connection:
            stream = connection.makefile('rwb')
            login = ask(stream, 'AUTH', given['user'], given['password'])
            written = ask(stream, 'SET', 'flux:credential_test', number)
            found = ask(stream, 'GET', 'flux:credential_test')
        good = (login, written, found) == ('+OK', '+OK', str(number))
        given = json.loads(config.read_text())['database']
        for host, port in ((','.join(given['hosts']), given['port']), ('127.0.0.1', 6432)):
            database = psycopg2.connect(host=host, port=port, dbname=given['name'], user=given['user'],
                password=given['password'], sslmode='require', connect_timeout=5,
                target_session_attrs='read-write')
            with database, database.cursor() as cursor:
                cursor.execute("SELECT pg_logical_emit_message(true, 'test', %s)", (str(number),))
                cursor.execute('SELECT count(*) FROM flux.mg_etl_job')
            database.close()
        print('ok' if good else f'failed {login} {written} {found}', flush=True)
    except (OSError, ValueError, psycopg2.Error) as error:
        print(f'failed {error}', flush=True)
    time.sleep(0.1)
"""


def values(system: LabSystem) -> dict[str, str]:
    return read(folder_of(system.inventory))


def accepted(system: LabSystem, user: str, password: str) -> bool:
    """Whether the hub's Redis lets a user in, asked by a client of another make."""
    address = system.addresses[system.hosts("hubs")[0]]
    try:
        redis.Redis(address, username=user, password=password, socket_timeout=10).ping()
    except redis.AuthenticationError:
        return False
    return True


@contextmanager
def in_use(system: LabSystem) -> Iterator[list[str]]:
    """Have a client on the hub work; what became of each of its turns is in the list after the block."""
    hub = system.hosts("hubs")[0]
    turns: list[str] = []
    system.on_host(hub, "sh", "-c", f"cat > /root/credential_client.py <<'EOF'\n{CLIENT}\nEOF")
    unit = ["systemd-run", "--unit=credential_client", f"--property=StandardOutput=file:{LOG}"]
    system.on_host(hub, *unit, "/opt/stationkeeper/venv/bin/python", "/root/credential_client.py")
    try:
        yield turns
    finally:
        system.on_host(hub, "systemctl", "stop", "credential_client")
        turns += system.on_host(hub, "cat", LOG).stdout.splitlines()
        system.on_host(hub, "rm", LOG, "/root/credential_client.py")


def test_check_mode_tells_and_changes_nothing(flux_ha: LabSystem) -> None:
    before = values(flux_ha)
    play = flux_ha.playbook("security_rotate_keys", {"target": "all", "names": ["redis_flux"]}, "--check")
    assert play.code == 0, play.output[-5000:]
    assert "would get another value" in play.output
    assert play.changed in ({}, {"localhost": 1})
    assert values(flux_ha) == before


def login(vault: dict[str, str], name: str, user: str) -> str:
    """Return which of a user's two logins has the password that is in use."""
    return user + vault.get(f"{name}_suffix", "")


def let_in(system: LabSystem, user: str, password: str, database: str = "flux") -> bool:
    """Whether each database host lets a user in over TCP, asked on the hosts; they must agree.

    Without a database it comes to replicate.
    """
    where = f"dbname={database}" if database else "replication=true"
    asked = [
        system.on_host(
            host,
            "sh",
            "-c",
            f"PGPASSWORD={password} psql -Xqw 'host=127.0.0.1 user={user} {where}' -c '\\q'",
            check=False,
        )
        for host in system.hosts("databases")
    ]
    answers = {one.returncode == 0 or "authentication failed" not in one.stderr for one in asked}
    assert len(answers) == 1
    return answers.pop()


def longest_silence_s(system: LabSystem, since: datetime) -> float:
    """Return the longest time between two readings of a battery since then."""
    found = system.query(
        """
        SELECT extract(epoch FROM max(silence)) FROM (
            SELECT time - lag(time) OVER (PARTITION BY device_id ORDER BY time) AS silence
            FROM flux.mg_bess_readings WHERE time >= %s) AS one
        """,
        [since],
    )
    return float(found[0][0])


def test_passwords_are_rotated_under_clients_that_notice_nothing(flux_ha: LabSystem) -> None:
    before = values(flux_ha)
    old = before[NAME]
    names = ["redis_flux", "redis_backup", "postgresql_writer", "postgresql_jobs", "postgresql_operator"]
    names += ["postgresql_replicator", "postgresql_rewind"]
    began = datetime.now(UTC)
    with in_use(flux_ha) as turns:
        play = flux_ha.playbook("security_rotate_keys", {"target": "all", "reason": "test", "names": names})
    assert play.code == 0, play.output[-5000:]
    assert "redis_flux: rotated" in play.output
    assert len(turns) > 50
    assert [turn for turn in turns if turn != "ok"] == []
    after = values(flux_ha)
    assert after[NAME] != old
    # In PostgreSQL the other login has the new password, and the one before has none.
    for name, user in ((WRITER, "flux_writer"), (JOBS, "flux_jobs")):
        assert login(before, name, user) != login(after, name, user)
        assert not let_in(flux_ha, login(before, name, user), before[name])
        assert not let_in(flux_ha, login(before, name, user), after[name])
        assert let_in(flux_ha, login(after, name, user), after[name])
    sessions = flux_ha.psql(flux_ha.primary(), "SELECT DISTINCT usename FROM pg_stat_activity").splitlines()
    assert login(before, WRITER, "flux_writer") not in sessions
    assert login(after, WRITER, "flux_writer") in sessions
    cadence_s = 2
    assert longest_silence_s(flux_ha, began) < 1.5 * cadence_s
    # The standby, too, follows by the other login; the failovers of the next tests go by it.
    streams = flux_ha.psql(flux_ha.primary(), "SELECT usename, state FROM pg_stat_replication").splitlines()
    assert streams == [f"{login(after, REPLICATOR, 'replicator')}|streaming"]
    for name, user in ((REPLICATOR, "replicator"), (REWIND, "rewind")):
        for vault, valid in ((before, False), (after, True)):
            given = (login(vault, name, user), vault[name], "postgres" if user == "rewind" else "")
            assert let_in(flux_ha, *given) == valid
    assert not [name for name in after if name.endswith(("_next", "_before"))]
    assert not accepted(flux_ha, "flux", old)
    assert accepted(flux_ha, "flux", after[NAME])
    # Neither the output nor the audit has a value.
    audit = flux_ha.run("stationkeeper", "audit", "show").stdout
    for value in (old, after[NAME], after["secret_redis_backup_password"], before[WRITER], after[WRITER]):
        assert value not in play.output + audit
    age = 'time() - stationkeeper_credential_since_timestamp_seconds{credential="redis_flux_password"}'
    flux_ha.wait("the age", lambda: 0 < float(flux_ha.measured(age)[0]["value"][1]) < 900, timeout_s=90)
    assert flux_ha.measured("stationkeeper_credential_unfinished") == []


def test_hosts_that_have_not_proven_the_new_value_keep_the_old_one_valid(flux_ha: LabSystem) -> None:
    hub, station = flux_ha.hosts("hubs")[0], flux_ha.stations[0]
    before = values(flux_ha)
    old = before[EXPORTER]
    began = datetime.now(UTC)
    # A unit that cannot be started, as after a botched change of it.
    drop_in = "/run/systemd/system/prometheus-redis-exporter.service.d"
    content = "[Service]\\nExecStart=\\nExecStart=/bin/false\\n"
    broken = f"mkdir -p {drop_in}; printf '{content}' > {drop_in}/zz_test.conf; systemctl daemon-reload"
    flux_ha.on_host(hub, "sh", "-c", broken)
    # And a station that is away.
    flux_ha.labctl("cut", station, "--control", "--for", "900")
    try:
        names = ["redis_exporter", "postgresql_writer"]
        play = flux_ha.playbook("security_rotate_keys", {"target": "all", "reason": "test", "names": names})
        assert play.code != 0
        assert "redis_exporter" in play.output
        found = values(flux_ha)
        # The station goes on with what it has when it is back, and others could use the new one.
        assert found[f"{WRITER}_before"] == before[WRITER]
        assert let_in(flux_ha, login(before, WRITER, "flux_writer"), before[WRITER])
        assert let_in(flux_ha, login(found, WRITER, "flux_writer"), found[WRITER])
        assert station in flux_ha.run("stationkeeper", "runbooks", "pending").stdout
        assert found[f"{EXPORTER}_before"] == old
        assert accepted(flux_ha, "exporter", old)
        assert accepted(flux_ha, "exporter", found[EXPORTER])
        unfinished = "stationkeeper_credential_unfinished"
        flux_ha.wait("the figure", lambda: flux_ha.measured(unfinished) != [], timeout_s=90)
    finally:
        flux_ha.on_host(hub, "sh", "-c", f"rm {drop_in}/zz_test.conf; systemctl daemon-reload")
        flux_ha.labctl("heal", station)
    # Whoever converges in between takes nothing away.
    again = flux_ha.playbook("security_rotate_keys", {"target": "all", "reason": "test"})
    assert again.code == 0, again.output[-5000:]
    assert "redis_exporter: rotated" in again.output
    assert not accepted(flux_ha, "exporter", old)
    after = values(flux_ha)
    assert accepted(flux_ha, "exporter", after[EXPORTER])
    assert not let_in(flux_ha, login(before, WRITER, "flux_writer"), before[WRITER])
    assert let_in(flux_ha, login(after, WRITER, "flux_writer"), after[WRITER])
    # What the station kept meanwhile came with either login.
    flux_ha.wait("the backlog", lambda: longest_silence_s(flux_ha, began) < 3, timeout_s=60)
    nothing = flux_ha.playbook("security_rotate_keys", {"target": "all", "reason": "test"})
    assert nothing.code == 0, nothing.output[-5000:]
    assert "no rotation is unfinished" in nothing.output
    assert nothing.changed == {}


def test_a_wish_that_makes_no_sense_is_refused_before_anything_is_touched(flux_ha: LabSystem) -> None:
    before = values(flux_ha)
    stranger = flux_ha.playbook(
        "security_rotate_keys", {"target": "all", "reason": "test", "names": ["redis_flx"]}
    )
    assert stranger.code != 0
    assert "no credential redis_flx" in stranger.output
    hub = flux_ha.hosts("hubs")[0]
    left_out = next(host for host in flux_ha.addresses if host != hub)
    partial = flux_ha.playbook(
        "security_rotate_keys", {"target": left_out, "reason": "test", "names": ["redis_flux"]}
    )
    assert partial.code != 0
    assert f"{hub} accept or use these" in partial.output
    assert values(flux_ha) == before
