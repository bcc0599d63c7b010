"""Secrets do not pass the redactor, and harmless text does."""

from __future__ import annotations

import base64
import time

import pytest

from stationkeeper.audit.redact import MASK, Redactor, is_secret_name, secret_values

SECRET = "tr0ub4dor&3-horse"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://flux:{SECRET}@db/flux",
        f"https://user:{SECRET}@host:8080/path?x=1",
        f"redis://:{SECRET}@hub:6379/0",
        f"psql --password {SECRET} -c x",
        f"tool --db-password={SECRET}",
        f"PGPASSWORD={SECRET} pg_dump flux",
        f'{{"token": "{SECRET}", "other": 1}}',
        f"password: '{SECRET}'",
        f"client_secret: {SECRET}",
        f"api_key = {SECRET}",
        f"Authorization: Bearer {SECRET.replace('&', '_')}",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n" + SECRET + "\n-----END OPENSSH PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\n" + SECRET,
    ],
)
def test_text_that_looks_like_a_credential_is_masked(text: str) -> None:
    shown = Redactor().text(text)
    assert SECRET not in shown
    assert SECRET.replace("&", "_") not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    "text",
    [
        "$6$rounds=5000$saltsalt$" + "A" * 86,
        "$y$j9T$abcdefgh$ijklmnop",
        "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy",
        "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQ",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    ],
)
def test_hashes_and_tokens_are_masked(text: str) -> None:
    assert Redactor().text(f"user {text} end") == f"user {MASK} end"


@pytest.mark.parametrize(
    "text",
    [
        "the password of a user has expired",
        "poll_interval: 30s",
        "https://deb.debian.org/debian",
        "/etc/bess_controller/config.yaml",
        "ops@10.78.10.21",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB ops@control",
    ],
)
def test_harmless_text_stays(text: str) -> None:
    assert Redactor().text(text) == text


def test_known_values_are_masked_wherever_and_however_they_stand() -> None:
    redactor = Redactor([SECRET, "line-one\nline-two-of-it"])
    encoded = base64.b64encode(SECRET.encode()).decode()
    for text in (SECRET, f"x{SECRET}y", "tr0ub4dor%263-horse", encoded, "+ line-two-of-it"):
        assert redactor.text(text).replace(MASK, "").strip() in {"", "xy", "+"}, text


def test_short_values_do_not_blank_out_words() -> None:
    assert Redactor(["flux", "no"]).text("flux has no gaps") == "flux has no gaps"


def test_values_named_like_secrets_are_masked_at_any_depth() -> None:
    data = {
        "users": [{"name": "ops", "password": SECRET, "update_password": "always"}],
        "db": {"connection_string": SECRET, "port": 5432},
        "private_key": SECRET,
        "no_password": False,
        "secret_empty": None,
    }
    shown = Redactor().value(data)
    assert SECRET not in str(shown)
    assert shown["users"][0]["name"] == "ops"
    assert shown["db"]["port"] == 5432
    assert shown["no_password"] is False
    assert shown["secret_empty"] is None


@pytest.mark.parametrize("name", ["db_password", "apiKey", "aws-secret-access-key", "vault_x", "auth", "psk"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["name", "author", "key", "passive", "keys_folder", "compass_heading"])
def test_other_names(name: str) -> None:
    assert not is_secret_name(name)


def test_secret_values_of_variables_are_learned_but_not_templates() -> None:
    variables = {
        "secret_a": SECRET,
        "db": {"password": {"nested": "value-1"}, "user": "flux"},
        "tokens": ["value-2", "{{ secret_a }}"],
        "plain": "value-3",
    }
    assert secret_values(variables) == {SECRET, "value-1", "value-2"}


def test_a_diff_shows_lines_without_their_secrets() -> None:
    diff = {
        "before": "host: a\npassword: old-secret-value\n",
        "after": "host: b\npassword: new-secret-value\n",
        "after_header": "/etc/x.yaml",
    }
    (shown,) = Redactor().diff(diff)
    assert shown["of"] == "/etc/x.yaml"
    assert "-host: a" in shown["text"]
    assert "+host: b" in shown["text"]
    assert "secret-value" not in shown["text"]


def test_a_diff_of_data_is_redacted_by_name() -> None:
    (shown,) = Redactor().diff([{"before": {"a": {"token": "x" * 20}}, "after": {"a": {"mode": "0600"}}}])
    assert f"-a.token: {MASK}" in shown["text"]
    assert "+a.mode: 0600" in shown["text"]


def test_long_values_are_cut() -> None:
    shown = Redactor().value({"text": "a b " * 5000, "list": list(range(500))})
    assert len(shown["text"]) < 2100
    assert shown["list"][-1] == "(450 more)"


def test_no_text_takes_long() -> None:
    redactor = Redactor([SECRET])
    # Processor time, since the machine may be busy; an expression that backtracks would take hours.
    began = time.thread_time()
    for text in (
        "a" * 200_000,
        "http://" * 30_000,
        "password" * 25_000,
        "a.b-" * 50_000,
        ": " * 100_000,
        "eyJ" * 60_000,
    ):
        redactor.text(text)
    assert time.thread_time() - began < 60
