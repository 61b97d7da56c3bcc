"""`millrace up` on the embedded broker: readiness, restarts, declarations, and a clean stop."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.broker.locking import held
from tests.deploy.running import WITHIN_S, Up, eventually, millrace, wait_until_gone
from tests.servers import rabbitmq_url

REQUEST = '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An installation shared by all tests that do not change it."""
    yield from started(tmp_path_factory.mktemp("up"))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Up]:
    """An installation for one test, which may end it."""
    yield from started(tmp_path)


def started(folder: Path) -> Iterator[Up]:
    millrace("init", "shop", folder=folder)
    up = Up(folder / "shop")
    try:
        up.wait_for("ready   http")
        yield up
    finally:
        up.stop()


def ask(up: Up) -> dict[str, Any]:
    done = millrace("predict", "hello", folder=up.folder, env=up.env, text=REQUEST)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def rows(up: Up, command: str) -> list[dict[str, Any]]:
    done = millrace(command, "--json", folder=up.folder, env=up.env)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def part(up: Up, name: str) -> psutil.Process:
    [found] = [child for child in psutil.Process(up.process.pid).children() if child.cmdline()[-1:] == [name]]
    return found


def test_ready_means_that_a_request_is_answered(up: Up) -> None:
    assert ask(up)["outputs"][0]["data"] == [3.0]


def test_status_and_models_print_json(up: Up) -> None:
    status = rows(up, "status")
    assert {row["part"] for row in status} == {"catalog", "gateway", "learner", "monitors", "replica", "router"}
    assert {row["state"] for row in status} == {"ready"}
    [model] = rows(up, "models")
    assert (model["endpoint"], model["model"], model["version"], model["ready"]) == ("hello", "hello", 1, "yes")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_processes_and_is_exit_status_0(own: Up, number: signal.Signals) -> None:
    family = own.family()
    assert len(family) == 6
    assert own.stop(number) == 0
    assert wait_until_gone(family, 0.1) == []
    assert own.output().endswith("stopped\n")


def test_ctrl_c_in_a_terminal_reaches_only_the_supervisor(up: Up) -> None:
    assert all(os.getpgid(child.pid) != os.getpgid(up.process.pid) for child in up.family())


def test_parts_of_a_killed_supervisor_end_by_themselves(own: Up) -> None:
    family = own.family()
    own.process.kill()
    assert wait_until_gone(family, 30.0) == []


@pytest.mark.parametrize("name", ["router", "gateway", "processors"])
def test_a_killed_part_is_restarted(up: Up, name: str) -> None:
    before = part(up, name)
    before.kill()
    up.wait_for(f"{name} ended with exit status -9")
    eventually(lambda: any(child.cmdline()[-1:] == [name] for child in psutil.Process(up.process.pid).children()))
    eventually(lambda: {"router", "gateway", "catalog"} <= ready_pids(up, before.pid))
    assert ask(up)["outputs"][0]["data"] == [3.0]


def ready_pids(up: Up, but: int) -> set[str]:
    return {row["part"] for row in rows(up, "status") if row["state"] == "ready" and row["pid"] != but}


def test_a_killed_replica_is_restarted(up: Up) -> None:
    eventually(lambda: len(part(up, "processors").children()) == 1)
    [replica] = part(up, "processors").children()
    replica.kill()
    up.wait_for("ended with signal SIGKILL")
    assert ask(up)["outputs"][0]["data"] == [3.0]


def test_all_files_in_the_data_folder_are_private_to_their_owner(up: Up) -> None:
    url, headers = f"http://127.0.0.1:{up.http_port}/v2/models/hello/infer", {"idempotency-key": "order-17"}
    assert httpx.post(url, content=REQUEST, headers=headers, timeout=WITHIN_S).status_code == 200
    data = up.folder / "data"
    eventually(lambda: any(data.glob("monitors/*.json")))
    found = {path.relative_to(data): (path.is_dir(), path.stat().st_mode & 0o777) for path in (data, *data.rglob("*"))}
    assert {"broker.db", "results.db", "assignment.key", "up.lock"} <= set(map(str, found))
    assert {path: mode for path, mode in found.items() if mode not in {(True, 0o700), (False, 0o600)}} == {}


def test_a_damaged_broker_file_is_exit_status_2_and_the_error_names_the_repair(tmp_path: Path) -> None:
    millrace("init", "shop", folder=tmp_path)
    (tmp_path / "shop/data").mkdir()
    (tmp_path / "shop/data/broker.db").write_bytes(b"no database at all" * 1000)
    up = Up(tmp_path / "shop")
    assert up.process.wait(WITHIN_S) == 2
    output = " ".join(up.output().split())
    assert "move broker.db, broker.db-wal, broker.db-shm away, and start again" in output
    assert "Traceback" not in output


def test_after_a_config_becomes_invalid_replicas_are_restarted_with_the_last_valid_one(own: Up) -> None:
    config = own.folder / "models/hello/config.pbtxt"
    config.write_text("nonsense: 1", "utf-8")

    def is_reported() -> bool:
        [catalog] = [row for row in rows(own, "status") if row["part"] == "catalog"]
        return "config.pbtxt: 1:1" in catalog["error"]

    eventually(is_reported)
    assert ask(own)["outputs"][0]["data"] == [3.0]
    [replica] = part(own, "processors").children()
    replica.kill()
    own.wait_for("ended with signal SIGKILL")
    own.wait_for("the model is loaded with the config that worked last")
    assert ask(own)["outputs"][0]["data"] == [3.0]


def test_a_process_that_keeps_the_brokers_lock_is_named_and_no_part_ends(own: Up) -> None:
    before = {child.pid for child in own.family()}
    with held(own.folder / "data/broker.db") as pid:
        done = millrace("status", folder=own.folder, env=own.env)
        output = " ".join(done.stderr.split())
        assert (done.returncode, "Traceback" in output) == (1, False)
        assert f"process {pid} (replica fraud 7) has held its write lock for" in output
        eventually(lambda: f"process {pid} (replica fraud 7)" in ready(own))
        for name in ("gateway", "router", "learner", "catalog", "monitors", "replica-hello-1"):
            own.wait_for(f'"part": "{name.replace("catalog", "processors")}", "logger": "broker.support.busy_handler"')
    eventually(lambda: "has held" not in ready(own))
    eventually(lambda: {row["state"] for row in rows(own, "status")} == {"ready"})
    assert ask(own)["outputs"][0]["data"] == [3.0]
    assert {child.pid for child in own.family()} == before


def ready(up: Up) -> str:
    return httpx.get(f"http://127.0.0.1:{up.http_port}/v2/health/ready", timeout=30.0).text


def test_an_endpoint_file_is_declared_and_withdrawn_without_a_restart(up: Up) -> None:
    path = up.folder / "endpoints/sums.yaml"
    path.write_text("endpoint: sums\narms: {v1: hello@1}\n", "utf-8")
    eventually(lambda: [row["endpoint"] for row in rows(up, "models")] == ["sums"])
    path.unlink()
    eventually(lambda: [row["endpoint"] for row in rows(up, "models")] == ["hello"])


def test_an_endpoint_belongs_to_the_first_file_that_declares_it(up: Up) -> None:
    first, second = up.folder / "endpoints/first.yaml", up.folder / "endpoints/second.yaml"
    first.write_text("endpoint: sums\narms: {one: hello@1}\n", "utf-8")
    up.wait_for("is declared by first.yaml")
    second.write_text("endpoint: sums\narms: {two: hello@1}\n", "utf-8")
    up.wait_for("endpoint sums is declared by first.yaml already")
    assert [row["arm"] for row in rows(up, "models")] == ["one"]
    first.unlink()
    eventually(lambda: [row["arm"] for row in rows(up, "models")] == ["two"])
    second.unlink()
    eventually(lambda: [row["endpoint"] for row in rows(up, "models")] == ["hello"])


def test_an_invalid_declaration_is_logged_and_changes_nothing(up: Up) -> None:
    (up.folder / "endpoints/wrong.yaml").write_text(
        "endpoint: wrong\narms: {v1: hello@1}\npolicy: {split: {v9: 1}}", "utf-8"
    )
    up.wait_for("'v9' is not an arm")
    assert [row["endpoint"] for row in rows(up, "models")] == ["hello"]
    (up.folder / "endpoints/wrong.yaml").unlink()


def test_a_model_that_does_not_load_is_printed_and_others_are_served(tmp_path: Path) -> None:
    millrace("init", "shop", folder=tmp_path)
    broken = tmp_path / "shop/models/broken/1"
    broken.mkdir(parents=True)
    (broken / "model.py").write_text("import nothing_of_this_name", "utf-8")
    (broken.parent / "config.pbtxt").write_text(
        'backend: "python" max_batch_size: 1 input [{name: "x" data_type: TYPE_FP32 dims: [1]}] '
        'output [{name: "y" data_type: TYPE_FP32 dims: [1]}]'
    )
    up = Up(tmp_path / "shop")
    try:
        up.wait_for("ready   http")
        assert "not served: model broken@1" in up.output()
        assert "nothing_of_this_name" in up.output()
        assert ask(up)["outputs"][0]["data"] == [3.0]
    finally:
        up.stop()


def test_without_a_models_folder_it_is_ready_and_serves_the_folder_once_it_exists(tmp_path: Path) -> None:
    millrace("init", "shop", folder=tmp_path)
    models = (tmp_path / "shop/models").rename(tmp_path / "elsewhere")
    up = Up(tmp_path / "shop")
    try:
        up.wait_for("ready   http")
        assert "not served: the model repository" in " ".join(up.output().split())
        [error] = {row["error"] for row in rows(up, "status") if row["part"] == "catalog"}
        assert "cannot be listed" in error
        models.rename(tmp_path / "shop/models")
        eventually(lambda: [row["ready"] for row in rows(up, "models")] == ["yes"])
        assert "Traceback" not in up.output()
    finally:
        up.stop()


def test_a_stop_before_readiness_is_clean(tmp_path: Path) -> None:
    millrace("init", "shop", folder=tmp_path)
    model = tmp_path / "shop/models/hello/1/model.py"
    model.write_text(f"import time\ntime.sleep(60)\n{model.read_text('utf-8')}", "utf-8")
    up = Up(tmp_path / "shop", MILLRACE__PROCESSORS__GRACE="100ms")
    eventually(lambda: is_alive_at(up.http_port))
    assert up.stop() == 0
    assert "not ready" not in up.output()
    assert "Traceback" not in up.output()


def is_alive_at(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/health/live").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("command", ["up", "gateway", "router", "learner", "processors", "monitors"])
def test_a_named_settings_file_must_exist(tmp_path: Path, command: str) -> None:
    """Otherwise it would start an installation with default settings in the current folder."""
    done = millrace(command, "--settings", "nope.yaml", folder=tmp_path)
    assert (done.returncode, done.stderr.count("error:")) == (2, 1)
    assert "there is no nope.yaml" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_prefix_that_the_broker_refuses_is_reported_once(tmp_path: Path) -> None:
    address = rabbitmq_url()
    millrace("init", "shop", folder=tmp_path)
    up = Up(tmp_path / "shop", "--broker", address, MILLRACE__PREFIX="amq.")
    assert up.process.wait(WITHIN_S) == 2
    output = up.output()
    assert "Traceback" not in output
    assert output.count("error:") == 1


def test_a_port_in_use_ends_up_with_the_reason(tmp_path: Path) -> None:
    millrace("init", "shop", folder=tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = Up(tmp_path / "shop", "--http-port", str(port))
        assert up.process.wait(WITHIN_S) == 1
    assert f"port {port}" in up.output()
    assert "gateway.http_port" in up.output()
    assert "Traceback" not in up.output()


def test_a_second_up_in_the_same_folder_names_the_first_and_starts_nothing(own: Up) -> None:
    second = millrace("up", folder=own.folder, env={**own.env, "MILLRACE__GATEWAY__HTTP_PORT": "0"})
    assert second.returncode == 1
    output = " ".join(second.stderr.split())
    assert f"process {own.process.pid} runs millrace up on {own.folder / 'data'} already" in output
    assert "Traceback" not in second.stderr
    family = own.family()
    own.process.kill()
    own.process.wait()
    wait_until_gone(family, 30.0)
    third = Up(own.folder)
    try:
        third.wait_for("ready   http")
    finally:
        assert third.stop() == 0
