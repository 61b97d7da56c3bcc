"""Commands that need no running part: help, init, check, apply, withdraw; and the errors of others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.deploy.running import environment, millrace

COMMANDS = (
    "up",
    "gateway",
    "router",
    "learner",
    "processors",
    "monitors",
    "init",
    "check",
    "schema",
    "apply",
    "withdraw",
    "status",
    "models",
    "predict",
    "route",
    "dead",
    "demo",
)
GROUPS = {
    "dead": ("list", "show", "replay", "purge"),
    "route": ("show", "pause", "resume", "promote", "abort", "set", "report", "replay", "simulate"),
}


def test_help_lists_the_commands(tmp_path: Path) -> None:
    output = millrace("--help", folder=tmp_path).stdout
    for command in COMMANDS:
        assert command in output


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example(command: str, tmp_path: Path) -> None:
    done = millrace(command, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert "Example:" in done.stdout
    assert "millrace" in done.stdout.split("Example:")[1]


@pytest.mark.parametrize(("group", "command"), [(group, one) for group, all_ in GROUPS.items() for one in all_])
def test_the_help_of_a_groups_command_has_an_example(group: str, command: str, tmp_path: Path) -> None:
    done = millrace(group, command, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert f"Example: millrace {group} {command}" in done.stdout


def test_no_colour_without_a_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in millrace("--help", folder=tmp_path).stdout
    assert "\x1b" not in millrace("check", "nothing.yaml", folder=tmp_path).stderr


def test_an_unknown_option_is_exit_status_2(tmp_path: Path) -> None:
    assert millrace("status", "--jsn", folder=tmp_path).returncode == 2


def test_init_creates_a_folder_and_overwrites_no_file(tmp_path: Path) -> None:
    assert millrace("init", "shop", folder=tmp_path).returncode == 0
    assert (tmp_path / "shop/models/hello/1/model.py").is_file()
    again = millrace("init", "shop", folder=tmp_path)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert millrace("check", folder=tmp_path / "shop").returncode == 0


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    millrace("init", "shop", folder=tmp_path)
    return tmp_path / "shop"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("endpoint: a\narm: {v1: hello@1}", "arm: unknown key; did you mean 'arms'?"),
        ("endpoint: a\narms: {v1: hello}", "'hello' is not a model version: write model@version"),
        ("endpoint: a b\narms: {v1: hello@1}", "endpoint 'a b': a name is"),
        ("endpoint: a\narms: {v1: hello@1, v2: hello@2}", "policy: 2 arms need one, such as {split: [v1, v2]}"),
        ("endpoint: a\narms: {v1: hello@1}\n---\nendpoint: a\narms: {v2: hello@1}", "endpoint a is declared twice"),
        (
            "endpoint: a\nkey: header\narms: {v1: hello@1}\npolicy: {split: [v1], sticky: yes}",
            "sticky: 'yes' is not a truth value: write true or false",
        ),
        ("endpoint: a\narms: {v1: hello@1}\npolicy: {split: {v2: 1}}", "'v2' is not an arm; declared arms: v1"),
        ("endpoint: a\narms: {v1: hello@1}\npolicy: {splt: {v1: 1}}", "known policies: split"),
        ("endpoint: a\narms: {v1: hello@1, v2: hello@2}\npolicy: {bandit: tompson}", "did you mean 'thompson'?"),
        ("endpoint: a\narms: {v1: hello@1}\npolicy: {split: []}", "or alike such as [v1, v2]"),
        ("endpoint: a\narms: {v1: hello@1}\nfeedback: {rewards: {right: {type: bool}}}", "default is missing"),
        ("endpoint: a\narms: {v1: hello@1}\npolicy: {split: 2026-99-99}", "split: arms are expected"),
        ("endpoint: a\narms: {v1: hello@1}\narms: {v1: hello@1}", "the key 'arms' is there twice, line 3"),
        ("endpoint: a\narms: {v1: hello@1}\npolicy: " + "[" * 5000, "this is not YAML"),
        ("endpoint: a\narms: {v1: hello@1}\ndeadline: 5", "5 is not a duration"),
        ("endpoint: [", "this is not YAML"),
        ("endpoint: a\narms: {v1: {model: hello, version: 99999999999}}", "arms.v1.version: Input should be less than"),
        ("endpoint: a\narms: {v1: {model: ../x y, version: 1}}", "arms.v1.model: model '../x y': a name is"),
    ],
)
def test_check_explains_a_mistake_with_exit_status_2(text: str, expected: str, shop: Path) -> None:
    (shop / "endpoints/a.yaml").write_text(text, "utf-8")
    done = millrace("check", folder=shop)
    assert done.returncode == 2
    assert expected in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://x", "broker.url begins with 'redis'; known schemes are amqp, "),
        ("user:hidden@x", "broker.url begins with no scheme"),
        ("sqlite://x", "sqlite has three slashes before a relative path"),
        ("amqp://x:port", "it looks like amqp://user:password@host:5672/vhost"),
        ("kafka://user:hidden@x:port", "a host or port is wrong"),
        ("kafka://[x", "broker.url cannot be read"),
        ("kafka://x:65536", "a host or port is wrong"),
        ("kafka://x,,y", "a host or port is wrong"),
    ],
)
def test_check_explains_a_wrong_broker_url(url: str, expected: str, shop: Path) -> None:
    (shop / "endpoints/c.yaml").write_text("endpoint: c", "utf-8")
    done = millrace("check", folder=shop, env=environment(MILLRACE__BROKER__URL=url))
    assert done.returncode == 2
    assert expected in " ".join(done.stderr.split())
    assert "c.yaml" in done.stderr
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["", "sqlite:///b.db", "amqp://x", "kafka://x,y:9093,[::1],[::1]:9092"])
def test_check_connects_to_no_broker(url: str, shop: Path) -> None:
    assert millrace("check", folder=shop, env=environment(MILLRACE__BROKER__URL=url)).returncode == 0
    assert not (shop / "b.db").exists()


@pytest.mark.parametrize("command", ["check", "models"])
def test_folders_that_are_not_served_are_listed_with_the_reason(command: str, shop: Path) -> None:
    (shop / "models/hello/2").mkdir()
    (shop / "models/hello/abc").mkdir()
    done = millrace(command, folder=shop)
    assert done.returncode == 0
    assert "models/hello/2 is not served: there is no model.py in it" in done.stderr
    assert "models/hello/abc is not served: a version's folder is a number" in done.stderr


@pytest.mark.parametrize(("command", "status"), [("check", 2), ("models", 0), ("status", 0)])
def test_an_arm_whose_version_the_models_policy_does_not_serve_is_named(command: str, status: int, shop: Path) -> None:
    """Triton's default serves the newest version alone."""
    config = shop / "models/hello/config.pbtxt"
    config.write_text(config.read_text().replace("version_policy", "# version_policy"), "utf-8")
    shutil.copytree(shop / "models/hello/1", shop / "models/hello/2")
    (shop / "endpoints/a.yaml").write_text("endpoint: a\narms: {old: hello@1}", "utf-8")
    assert millrace("apply", "endpoints/a.yaml", folder=shop).returncode == 0
    done = millrace(command, folder=shop)
    assert done.returncode == status
    output = " ".join(done.stderr.split())
    assert (
        "endpoint a: arm old names hello@1, which the version_policy of hello does not serve: add version_p" in output
    )


def test_check_goes_on_after_the_first_mistake(shop: Path) -> None:
    (shop / "endpoints/a.yaml").write_text("endpoint: a\narm: {}", "utf-8")
    (shop / "endpoints/b.yaml").write_text("endpoint: b\narms: {v1: hello@1}", "utf-8")
    (shop / "endpoints/c.yaml").write_text("endpoint: c", "utf-8")
    done = millrace("check", folder=shop)
    assert "a.yaml" in done.stderr
    assert "endpoint b is fine" in done.stdout
    assert "c.yaml" in done.stderr


ARMS = "endpoint: a\narms: {v1: hello@1, v2: hello@2}\nkey: header\n"
CLICKED = "feedback: {rewards: {clicked: {default: 0}}}\n"
CANARY = "policy: {canary: v2, stable: %s, steps: %s, guardrails: [%s]}\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{ARMS}policy: {{split: [v1, v2]}}",
        f"{ARMS}policy: {{split: {{v1: 90, v2: 10}}, sticky: true}}",
        f"{ARMS}{CLICKED}policy: {{bandit: thompson, reward: clicked}}",
        ARMS + CANARY % ("v1", "[1%, 10%, 50%]", "{bad: failed}"),
        ARMS + CANARY % ("v1", "[1%, 10%, 50%]", "{bad: slow, over: 250ms}"),
        ARMS + CLICKED + CANARY % ("v1", "[1%, 10%, 50%]", "{reward: clicked}"),
        f"{ARMS}policy: {{split: [v1, v2]}}\nexclusive: {{group: home, slice: [0%, 50%]}}",
    ],
)
def test_the_examples_in_error_texts_are_valid(text: str, shop: Path) -> None:
    (shop / "endpoints/a.yaml").write_text(text, "utf-8")
    done = millrace("check", folder=shop)
    assert done.returncode == 0, done.stderr


def test_check_finds_models_with_a_wrong_config(shop: Path) -> None:
    config = shop / "models/hello/config.pbtxt"
    config.write_text(config.read_text("utf-8").replace('"python"', '"pyhton"'), "utf-8")
    done = millrace("check", folder=shop)
    assert done.returncode == 2
    assert done.stderr.count("must be one of") == 1


def test_check_prints_the_files_it_read_even_if_there_are_none(shop: Path) -> None:
    output = millrace("check", folder=shop).stdout
    assert "millrace.yaml: the settings are fine" in output
    assert f"endpoints/*.yaml: 0 files read in {shop}" in output
    (shop / "elsewhere").mkdir()
    (shop / "elsewhere/a.yaml").write_text("endpoint: a\narms: {v1: hello@1}", "utf-8")
    alone = millrace("check", "a.yaml", folder=shop / "elsewhere")
    assert alone.returncode == 0
    assert "no millrace.yaml here: the default settings hold" in alone.stdout


def test_check_names_files_that_are_not_read_or_declare_nothing(shop: Path) -> None:
    (shop / "endpoints/a.yml").write_text("endpoint: a\narms: {v1: hello@1}", "utf-8")
    (shop / "endpoints/b.yaml").write_text("# endpoint: b\n", "utf-8")
    done = millrace("check", folder=shop)
    assert done.returncode == 0
    assert "endpoints/a.yml is not read: endpoints is endpoints/*.yaml; name it a.yaml" in done.stderr
    assert "endpoints/b.yaml declares nothing" in done.stderr
    named = millrace("check", "endpoints/a.yml", folder=shop)
    assert named.returncode == 0
    assert "endpoints/a.yml is not read by `millrace up`: endpoints is endpoints/*.yaml" in named.stderr


@pytest.mark.parametrize(
    ("second", "expected"),
    [("", "b.yaml declares nothing"), ("endpoint: a\narms: {v2: hello@1}", "endpoint a is declared by a.yaml too")],
)
def test_apply_refuses_empty_files_and_one_endpoint_in_two_files(second: str, expected: str, shop: Path) -> None:
    (shop / "a.yaml").write_text("endpoint: a\narms: {v1: hello@1}", "utf-8")
    (shop / "b.yaml").write_text(second, "utf-8")
    done = millrace("apply", "a.yaml", "b.yaml", folder=shop)
    assert done.returncode == 2
    assert expected in done.stderr


def test_check_finds_one_endpoint_declared_by_two_files(shop: Path) -> None:
    for name in ("a", "b"):
        (shop / f"endpoints/{name}.yaml").write_text("endpoint: same\narms: {v1: hello@1}", "utf-8")
    done = millrace("check", folder=shop)
    assert done.returncode == 2
    assert "endpoint same is declared by a.yaml too" in " ".join(done.stderr.split())


def sliced(endpoint: str, group: str, low: str, high: str) -> str:
    exclusive = f"key: header\nexclusive: {{group: {group}, slice: [{low}, {high}]}}"
    return f"endpoint: {endpoint}\narms: {{v1: hello@1, v2: hello@1}}\npolicy: {{split: [v1, v2]}}\n{exclusive}"


def test_check_finds_slices_of_one_group_that_overlap(shop: Path) -> None:
    (shop / "endpoints/a.yaml").write_text(sliced("a", "home", "0%", "50%"), "utf-8")
    (shop / "endpoints/b.yaml").write_text(sliced("b", "home", "40%", "60%"), "utf-8")
    done = millrace("check", folder=shop)
    assert done.returncode == 2
    output = " ".join(done.stderr.split())
    assert "b.yaml and a.yaml: exclusive: endpoint b has [40%, 60%] of group home, and endpoint a [0%, 50%]" in output
    assert "[40%, 50%] is in both, so they share keys" in output
    assert "endpoint a is fine" in done.stdout
    assert "endpoint b is fine" not in done.stdout


@pytest.mark.parametrize(
    "other",
    [sliced("b", "home", "0.333", "100%"), sliced("b", "cart", "0%", "50%"), "endpoint: b\narms: {v1: hello@1}"],
)
def test_check_accepts_slices_that_do_not_overlap(other: str, shop: Path) -> None:
    (shop / "endpoints/a.yaml").write_text(sliced("a", "home", "0%", "33.3%"), "utf-8")
    (shop / "endpoints/b.yaml").write_text(other, "utf-8")
    done = millrace("check", folder=shop)
    assert done.returncode == 0, done.stderr


def test_wrong_settings_are_exit_status_2(shop: Path) -> None:
    (shop / "millrace.yaml").write_text("getaway: {}", "utf-8")
    for command in (["up"], ["status"], ["check"], ["router"]):
        done = millrace(*command, folder=shop)
        assert done.returncode == 2, command
        assert "did you mean 'gateway'" in " ".join(done.stderr.split())


def test_an_unreachable_broker_is_exit_status_1_and_its_password_is_not_printed(shop: Path) -> None:
    done = millrace("status", "--broker", "amqp://user:hidden-word@127.0.0.1:1/", folder=shop)
    assert done.returncode == 1
    assert "hidden-word" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_json_lists_are_empty_arrays_when_nothing_runs(shop: Path) -> None:
    for command in ("status", "models", "dead list"):
        done = millrace(*command.split(), "--json", folder=shop)
        assert json.loads(done.stdout) == [], command


def test_a_request_that_is_not_json_is_exit_status_2(shop: Path) -> None:
    done = millrace("predict", "hello", folder=shop, text="{")
    assert done.returncode == 2
    assert "not JSON" in done.stderr


def test_the_environment_is_read_by_commands(shop: Path) -> None:
    done = millrace("check", folder=shop, env=environment(MILLRACE__GATEWAY__HOST="0.0.0.0"))  # noqa: S104 - refused
    assert done.returncode == 2
    assert "secrets.assignment" in done.stderr


def test_an_endpoint_is_withdrawn_by_its_name(shop: Path) -> None:
    (shop / "a.yaml").write_text("endpoint: a\narms: {v1: hello@1}\n---\nendpoint: b\narms: {v1: hello@1}\n", "utf-8")
    assert millrace("apply", "a.yaml", folder=shop).returncode == 0
    unconfirmed = millrace("withdraw", "a", folder=shop)
    assert unconfirmed.returncode == 2
    assert "add --yes" in " ".join(unconfirmed.stderr.split())
    assert millrace("withdraw", "a", "--yes", folder=shop).stdout == "endpoint a: withdrawn\n"
    again = millrace("withdraw", "a", "--yes", folder=shop)
    assert again.returncode == 1
    assert "no endpoint 'a' is declared; declared: b" in again.stderr
