"""What the roles etcd and patroni write must never let a second database or a second etcd cluster begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROLES = Path(__file__).resolve().parents[2] / "roles"
HOSTS = [{"name": f"db{number}", "address": f"10.0.0.{number}"} for number in (1, 2, 3)]


def rendered(role: str, template: str, **variables: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(ROLES / role / "templates"), undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["to_json"] = json.dumps
    defaults = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text())
    return environment.get_template(template).render(
        {"ansible_managed": "managed", "inventory_hostname": "db1", **defaults, **variables}
    )


def patroni() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(
        rendered(
            "patroni",
            "patroni.yml.j2",
            patroni_name="db1",
            patroni_address="10.0.0.1",
            patroni_etcd_hosts=["10.0.0.1:2379"],
            patroni_replication={"username": "replicator", "password": 'a"b: c'},
            patroni_rewind={"username": "rewind", "password": "#d"},
            _patroni_version=17,
            _patroni_file="/etc/patroni/17-main.yml",
            _patroni_server="/etc/postgresql/17/main",
            _patroni_data="/var/lib/postgresql/17/main",
            _patroni_trust="/etc/stationkeeper/cluster/known-0123.pem",
            _patroni_away="/usr/local/lib/patroni_etcd_away",
            _patroni_identity="/etc/stationkeeper/cluster",
        )
    )
    return loaded


def etcd() -> dict[str, str]:
    text = rendered(
        "etcd",
        "etcd.env.j2",
        etcd_members=HOSTS,
        _etcd_address="10.0.0.1",
        _etcd_peer_url="https://10.0.0.1:2380",
        _etcd_data="/var/lib/etcd/stationkeeper",
        _etcd_directory="/etc/stationkeeper/cluster",
    )
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_a_host_without_data_never_makes_a_database_of_its_own() -> None:
    assert "bootstrap" not in patroni()


def test_data_that_cannot_be_rewound_are_not_removed() -> None:
    server = patroni()["postgresql"]
    assert server["remove_data_directory_on_rewind_failure"] is False
    assert server["remove_data_directory_on_diverged_timelines"] is False


def test_only_who_has_a_certificate_changes_something() -> None:
    configuration = patroni()
    assert configuration["restapi"]["verify_client"] == "optional"
    assert configuration["etcd3"]["protocol"] == "https"
    assert {"cacert", "cert", "key"} <= configuration["etcd3"].keys()


def test_the_interface_takes_up_a_renewed_certificate() -> None:
    # Patroni reads the file anew only where its name changes, so the name changes with the certificates.
    assert patroni()["restapi"]["cafile"] == "/etc/stationkeeper/cluster/known-0123.pem"
    names = yaml.safe_load((ROLES / "patroni" / "vars" / "main.yml").read_text())
    assert "_patroni_known.stat.checksum" in names["_patroni_trust"]


def test_passwords_survive_yaml() -> None:
    accounts = patroni()["postgresql"]["authentication"]
    assert (accounts["replication"]["password"], accounts["rewind"]["password"]) == ('a"b: c', "#d")


def test_the_watchdog_is_a_word() -> None:
    # Unquoted, YAML makes false of it, which Patroni does not know.
    assert patroni()["watchdog"]["mode"] == "off"


def test_an_etcd_member_without_data_does_not_begin_a_cluster() -> None:
    assert etcd()["ETCD_INITIAL_CLUSTER_STATE"] == "existing"


def test_an_etcd_member_knows_all_others_and_serves_nobody_unknown() -> None:
    settings = etcd()
    expected = "db1=https://10.0.0.1:2380,db2=https://10.0.0.2:2380,db3=https://10.0.0.3:2380"
    assert settings["ETCD_INITIAL_CLUSTER"] == expected
    assert settings["ETCD_CLIENT_CERT_AUTH"] == settings["ETCD_PEER_CLIENT_CERT_AUTH"] == "true"
    assert not any(value.startswith("http://") for key, value in settings.items() if "METRICS" not in key)


def test_the_default_times_are_those_that_patroni_takes_as_they_are() -> None:
    defaults = yaml.safe_load((ROLES / "patroni" / "defaults" / "main.yml").read_text())
    ttl, loop, retry = (defaults[f"patroni_{name}_s"] for name in ("ttl", "loop", "retry"))
    assert ttl >= 20
    assert retry >= 3
    assert loop + 2 * retry <= ttl


def test_hosts_that_a_file_lists_have_an_order() -> None:
    """Ansible's set filters give any order, another one in each run: three hosts would change for ever."""
    inventory = ROLES.parent / "inventories" / "flux" / "group_vars"
    loops = [
        line
        for path in inventory.rglob("*.yml")
        for line in path.read_text().splitlines()
        if "{%- for" in line and any(f"{name}(" in line for name in ("difference", "union", "intersect"))
    ]
    assert len(loops) >= 2
    assert all(line.rstrip().endswith("| sort -%}") for line in loops), loops


def test_the_others_trust_a_member_before_it_joins() -> None:
    """Etcd reads the certificates when it starts: a member with a new one is refused until the others did."""
    tasks = yaml.safe_load((ROLES / "etcd" / "tasks" / "started.yml").read_text())
    order = [task["name"] for task in tasks]
    restart = order.index("Put changes into force")
    assert order.index("Start etcd now and with the host") < restart
    assert restart < order.index("Have the others expect a member that lost its data")
    assert order.index("Start a member that lost its data") == restart + 2
    assert "not _etcd_joins" in tasks[restart]["when"]
