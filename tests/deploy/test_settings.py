"""Settings: precedence of flags, variables and the file; errors; secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import Misconfigured
from deploy.settings import Settings, assignment_key, load_settings


def read(folder: Path, text: str, overrides: dict[str, str] | None = None) -> Settings:
    path = folder / "millrace.yaml"
    path.write_text(text, "utf-8")
    return load_settings(path, overrides)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        read(folder, text)
    return str(caught.value)


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "millrace.yaml")
    assert (settings.gateway.host, settings.gateway.http_port, settings.metrics.port) == ("127.0.0.1", 8000, 8002)
    assert settings.broker_url == f"sqlite:///{tmp_path}/data/broker.db"


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "gateway: {http_port: 1111}"
    assert read(tmp_path, "").gateway.http_port == 8000
    assert read(tmp_path, text).gateway.http_port == 1111
    monkeypatch.setenv("MILLRACE__GATEWAY__HTTP_PORT", "2222")
    assert read(tmp_path, text).gateway.http_port == 2222
    assert read(tmp_path, text, {"gateway.http_port": "3333"}).gateway.http_port == 3333


def test_a_variable_does_not_change_other_keys_of_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE__GATEWAY__HTTP_PORT", "2222")
    assert read(tmp_path, "gateway: {pending_limit: 7}").gateway.pending_limit == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("getaway: {}", "millrace.yaml: getaway: unknown key; did you mean 'gateway'?"),
        ("gateway: {htp_port: 1}", "gateway.htp_port: unknown key; did you mean 'http_port'?"),
        ("processors: {zzz: 1}", "processors.zzz: unknown key; known keys: engine, replicas,"),
        ("broker: {limits: {request: 1}}", "broker.limits.request: unknown key; did you mean 'requests'?"),
        ("repository: {poll: 5}", "repository.poll: 5 is not a duration: write a number with us, ms, s, m, h or d"),
        ("broker: {limits: {size: 2 lots}}", "broker.limits.size: '2 lots' is not a size"),
        ("gateway: {http_port: 70000}", "gateway.http_port: "),
        ("prefix: millrace", "prefix 'millrace': "),
        ("- a list", "a mapping of keys is expected, found list"),
        ("gateway: {", "this is not YAML"),
        ("gateway: 8000", "gateway: "),
    ],
)
def test_an_error_names_the_key_and_the_expected_value(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    error = refusal(tmp_path, "getaway: {}\nmetrics: {port: many}")
    assert "getaway" in error
    assert "metrics.port" in error


def test_a_variable_for_an_unknown_key_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE__GATEWAY__PORT", "1")
    assert "gateway.port: unknown key" in refusal(tmp_path, "")


def test_the_file_may_refer_to_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "rabbit")
    assert read(tmp_path, 'broker: {url: "amqp://${WHERE}:5672"}').broker_url == "amqp://rabbit:5672"
    error = refusal(tmp_path, 'broker: {url: "amqp://${NOWHERE_AT_ALL}"}')
    assert "broker: url: the environment has no variable NOWHERE_AT_ALL" in error


def test_a_secret_can_be_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url.txt").write_text("amqp://u:p@rabbit\n", "utf-8")
    assert read(tmp_path, "broker: {url_file: url.txt}").broker_url == "amqp://u:p@rabbit"
    assert "url_file: nothing.txt cannot be read" in refusal(tmp_path, "broker: {url_file: nothing.txt}")


def test_a_key_and_its_file_contradict_each_other(tmp_path: Path) -> None:
    (tmp_path / "url.txt").write_text("amqp://other", "utf-8")
    error = refusal(tmp_path, "broker: {url: amqp://one, url_file: url.txt}")
    assert "give url or url_file, not both" in error


def test_secrets_are_neither_in_repr_nor_in_errors(tmp_path: Path) -> None:
    text = "broker: {url: 'amqp://u:hidden-word@rabbit'}\nsecrets: {assignment: hidden-word}\n"
    settings = read(tmp_path, text)
    assert "hidden-word" not in repr(settings)
    assert "hidden-word" not in str(settings.model_dump())
    assert "hidden-word" not in refusal(tmp_path, text + "getaway: {}")
    assert "hidden-word" not in refusal(tmp_path, "secrets: {assignment: [hidden-word]}")
    assert "hidden-word" not in refusal(tmp_path, "secrets: hidden-word")
    assert "hidden-word" not in refusal(tmp_path, "secrets: {assignment: hidden-word\nbroker: {")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "gateway.example"])  # noqa: S104 - refused
def test_off_loopback_needs_the_assignment_key(tmp_path: Path, host: str) -> None:
    assert "set secrets.assignment" in refusal(tmp_path, f"gateway: {{host: '{host}'}}")
    read(tmp_path, f"gateway: {{host: '{host}'}}\nsecrets: {{assignment: a key}}")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost", "127.3.2.1"])
def test_on_loopback_the_key_is_created_once(tmp_path: Path, host: str) -> None:
    settings = read(tmp_path, f"gateway: {{host: '{host}'}}")
    key = assignment_key(settings)
    assert len(key) == 64
    assert assignment_key(settings) == key
    assert (tmp_path / "data" / "assignment.key").stat().st_mode & 0o077 == 0


def test_a_given_key_is_the_key(tmp_path: Path) -> None:
    assert assignment_key(read(tmp_path, "secrets: {assignment: abc}")) == b"abc"
    assert not (tmp_path / "data").exists()
