"""What Grafana would find: parsable files, no secret in them, secrets for root only."""

from __future__ import annotations

import json
from typing import Any

import yaml

SECRETS = ("scenario-only-admin", "scenario-only-key", "scenario-only-reader")


def test_dashboards_parse_and_bear_their_names(host: Any) -> None:
    names = host.file("/var/lib/grafana/dashboards").listdir()
    assert len(names) == 4
    for name in names:
        board = json.loads(host.file(f"/var/lib/grafana/dashboards/{name}").content_string)
        assert f"{board['uid']}.json" == name
        assert board["panels"]


def test_data_sources_parse_and_read_the_password_from_a_file(host: Any) -> None:
    text = host.file("/etc/grafana/provisioning/datasources/stationkeeper.yml").content_string
    sources = {source["uid"]: source for source in yaml.safe_load(text)["datasources"]}
    assert sources["flux-database"]["url"] == "10.78.34.99:5432"
    reference = sources["flux-database"]["secureJsonData"]["password"]
    assert reference == "$__file{/etc/grafana/secrets/database_password}"
    secret = host.file("/etc/grafana/secrets/database_password")
    assert (secret.user, secret.mode, secret.content_string) == ("root", 0o600, "scenario-only-reader")


def test_no_secret_stands_outside_its_file(host: Any) -> None:
    for secret in SECRETS:
        found = host.run(f"grep -rl --exclude-dir=secrets {secret} /etc/grafana /var/lib/grafana")
        assert found.stdout == ""


def test_alert_rules_parse(host: Any) -> None:
    rules = json.loads(host.file("/etc/grafana/provisioning/alerting/stationkeeper.json").content_string)
    assert rules["apiVersion"] == 1
    assert rules["groups"][0]["rules"]
