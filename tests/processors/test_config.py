"""Reading `config.pbtxt`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from broker.errors import Misconfigured
from broker.tensor.inference import TensorSpec
from processors.config import ModelConfig, VersionPolicy, parse_config, read_config

FULL = """
name: "ranker"
platform: "pytorch_libtorch"
max_batch_size: 32
input [ { name: "x" data_type: TYPE_FP32 dims: [ 64 ] }, { name: "s" data_type: TYPE_STRING dims: [ -1, 2 ] } ]
output [ { name: "y" data_type: TYPE_INT64 dims: [ 10 ] } ]
dynamic_batching { preferred_batch_size: [ 16, 8 ] max_queue_delay_microseconds: 500 }
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_CPU } ]
parameters { key: "b" value: { string_value: "2" } }
parameters { key: "a" value: { string_value: "1" } }
version_policy { latest { num_versions: 2 } }
"""
SMALL = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_BOOL dims: -1 }
"""


def parse(text: str, model: str = "ranker") -> ModelConfig:
    return parse_config(text, model=model, source="config.pbtxt")


def test_every_served_field_is_read() -> None:
    config = parse(FULL)
    assert (config.name, config.runtime, config.file, config.max_batch_size) == ("ranker", "pytorch", "model.pt", 32)
    assert config.inputs == (TensorSpec("x", "FP32", (-1, 64)), TensorSpec("s", "BYTES", (-1, -1, 2)))
    assert config.outputs == (TensorSpec("y", "INT64", (-1, 10)),)
    assert config.preferred_batch_sizes == (8, 16)
    assert config.max_queue_delay_us == 500
    assert config.instance_count == 3
    assert config.parameters == {"a": "1", "b": "2"}
    assert config.versions == VersionPolicy(latest=2)


def test_a_small_config_has_the_defaults() -> None:
    config = parse(SMALL)
    assert (config.name, config.runtime, config.file, config.max_batch_size) == ("ranker", "python", "model.py", 0)
    assert config.inputs == (TensorSpec("x", "FP32", (2,)),)
    assert (config.preferred_batch_sizes, config.max_queue_delay_us, config.instance_count) == ((), 0, 0)
    assert config.versions.choose([3, 1, 2]) == (3,)


def test_the_json_has_tritons_fields_with_integers_as_integers() -> None:
    written = json.loads(json.dumps(parse(FULL).json))
    assert written["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": [64]}
    assert written["dynamic_batching"] == {"preferred_batch_size": [16, 8], "max_queue_delay_microseconds": 500}
    assert written["parameters"]["a"] == {"string_value": "1"}
    assert parse(SMALL).json["name"] == "ranker"
    assert parse(SMALL).json["max_batch_size"] == 0


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        ("", (10,)),
        ("version_policy { all {} }", (1, 2, 10)),
        ("version_policy { latest {} }", (10,)),
        ("version_policy { latest { num_versions: 2 } }", (2, 10)),
        ("version_policy { specific { versions: [ 1, 7, 10 ] } }", (1, 10)),
    ],
)
def test_the_version_policy_selects_versions(policy: str, chosen: tuple[int, ...]) -> None:
    assert parse(SMALL + policy).versions.choose([10, 2, 1]) == chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "backend is missing"),
        ("\n\nbackend: python", r"config.pbtxt: 3:\d+ :"),
        ('backend: "python"\nnonsense: 1', "2:1 .*nonsense"),
        ('backend: "onnxruntime"', "backend is 'onnxruntime', and must be one of pytorch, python"),
        ('platform: "ensemble"', "backend is 'ensemble'"),
        ('name: "other"' + SMALL, "name is 'other', but the folder is 'ranker'"),
        ("max_batch_size: -1" + SMALL, "must be at least 0"),
        ('backend: "python"', "no input is declared"),
        ('backend: "python" input { name: "x" data_type: TYPE_FP32 dims: 2 }', "no output is declared"),
        (SMALL + 'input { name: "x" data_type: TYPE_FP32 dims: 2 }', "different names"),
        (SMALL + "input { data_type: TYPE_FP32 dims: 2 }", "has no name"),
        (SMALL + 'input { name: "z" dims: 2 }', "data_type is TYPE_INVALID"),
        (SMALL + 'input { name: "z" data_type: TYPE_BF16 dims: 2 }', "data_type is TYPE_BF16"),
        (SMALL + 'input { name: "z" data_type: TYPE_FP32 dims: 0 }', "dims are"),
        (SMALL + 'input { name: "z" data_type: TYPE_FP32 dims: -2 }', "dims are"),
        (SMALL + 'input { name: "z" data_type: TYPE_FP32 dims: 2 optional: true }', "optional is not served"),
        (SMALL + 'input { name: "z" data_type: TYPE_FP32 dims: 1 reshape { shape: [] } }', "reshape is not served"),
        (SMALL + "sequence_batching {}", "sequence_batching is not served"),
        (SMALL + "ensemble_scheduling {}", "ensemble_scheduling is not served"),
        (SMALL + "model_transaction_policy { decoupled: true }", "model_transaction_policy: decoupled is not served"),
        (SMALL + "batch_input { kind: BATCH_ELEMENT_COUNT }", "batch_input is not served"),
        (SMALL + "batch_output { }", "batch_output is not served"),
        (SMALL + "dynamic_batching { preserve_ordering: true }", "dynamic_batching: preserve_ordering is not served"),
        (SMALL + "dynamic_batching { priority_levels: 2 }", "priority_levels is not served"),
        (
            SMALL + "dynamic_batching { default_queue_policy { max_queue_size: 2 } }",
            "dynamic_batching: max_queue_size is not served",
        ),
        (SMALL + "instance_group { passive: true }", "instance_group: passive is not served"),
        (SMALL + 'instance_group { profile: "a" }', "profile is not served"),
        (SMALL + "instance_group [ { kind: KIND_CPU }, { kind: KIND_GPU } ]", "several kinds or GPUs"),
        (SMALL + "instance_group { kind: KIND_GPU gpus: [ 0, 1 ] }", r"gpus are \[0, 1\]"),
        (SMALL + 'model_operations { op_library_filename: "x.so" }', "model_operations is not served"),
        (SMALL + "model_repository_agents {}", "model_repository_agents is not served"),
        (SMALL + 'runtime: "model.py"', "runtime is not served"),
        (SMALL + 'parameters { key: "EXECUTION_ENV_PATH" value: { string_value: "x" } }', "EXECUTION_ENV_PATH is not"),
        (SMALL + 'platform: "pytorch_libtorch"', "backend is 'python' and platform 'pytorch_libtorch'"),
        (SMALL + 'default_model_filename: "../x.py"', "plain file name"),
        (SMALL + "dynamic_batching { preferred_batch_size: 4 }", "preferred_batch_size"),
        (SMALL + "version_policy { specific {} }", "must list versions"),
        (SMALL + "version_policy { specific { versions: 0 } }", "must list versions"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        parse(text)


@pytest.mark.parametrize("name", ["-a", "a.b", "ä", "a" * 64, ""])
def test_a_folder_that_cannot_be_addressed_is_refused(name: str) -> None:
    with pytest.raises(Misconfigured):
        parse(SMALL, model=name)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"config\.pbtxt is missing: it must declare backend"):
        read_config(tmp_path)
    (tmp_path / "config.pbtxt").write_bytes(b"\xff")
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_config(tmp_path)


def test_reading_a_config_works_without_importing_tritons_client_and_beside_it() -> None:
    program = (
        "import sys; from processors.config import parse_config\n"
        f"parse_config({SMALL!r}, model='m', source='s')\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('tritonclient', 'grpc', 'torch')]\n"
        "import tritonclient.grpc.model_config_pb2 as theirs\n"
        "assert theirs.ModelConfig(name='m').name == 'm'\n"
        f"parse_config({SMALL!r}, model='m', source='s')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("optimization { priority: PRIORITY_MAX }", "optimization"),
        ("response_cache { enable: true }", "response_cache"),
        ('metric_tags { key: "a" value: "b" }', "metric_tags"),
        ('model_warmup { name: "zeros" }', "model_warmup"),
        ('output { name: "z" data_type: TYPE_FP32 dims: 2 label_filename: "l.txt" }', "label_filename"),
        ("instance_group { rate_limiter { priority: 1 } }", "rate_limiter"),
    ],
)
def test_a_field_without_effect_is_named_in_a_warning(field: str, named: str) -> None:
    [warning] = parse(SMALL + field).warnings
    assert warning.startswith("config.pbtxt")
    assert f": {named} has no effect here: " in warning


def test_a_parameter_of_tritons_backend_is_named_in_a_warning_unless_it_is_the_models_own() -> None:
    given = 'parameters { key: "INTRA_OP_THREAD_COUNT" value: { string_value: "4" } }'
    assert parse(SMALL + given).warnings == ()
    (warning,) = parse(SMALL.replace("python", "pytorch") + given).warnings
    assert "INTRA_OP_THREAD_COUNT has no effect here" in warning


@pytest.mark.parametrize(
    ("group", "count", "device"),
    [
        ("", 0, ""),
        ("instance_group { kind: KIND_AUTO }", 0, ""),
        ("instance_group { count: 3 }", 3, ""),
        ("instance_group { kind: KIND_CPU }", 0, "cpu"),
        ("instance_group { kind: KIND_GPU count: 2 }", 2, "cuda"),
        ("instance_group { gpus: 1 }", 0, "cuda:1"),
    ],
)
def test_instance_groups_set_the_number_of_replicas_and_the_device(group: str, count: int, device: str) -> None:
    config = parse(SMALL + group)
    assert (config.instance_count, config.device) == (count, device)


@pytest.mark.parametrize(
    ("files", "runtime", "message"),
    [
        (["model.pt"], "pytorch", ""),
        (["model.py"], "python", ""),
        (["model.py", "model.pt"], "pytorch", ""),
        (["model.onnx"], "", "backend is 'onnxruntime' by the file model.onnx, and must be one of pytorch, python"),
        (["other.py"], "", "backend is missing"),
    ],
)
def test_a_missing_backend_follows_from_the_model_file_as_in_triton(
    tmp_path: Path, files: list[str], runtime: str, message: str
) -> None:
    folder = tmp_path / "m"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(SMALL.replace('backend: "python"', ""))
    for name in files:
        (folder / "1" / name).touch()
    if message:
        with pytest.raises(Misconfigured, match=message):
            read_config(folder)
    else:
        config = read_config(folder)
        assert (config.runtime, config.json["backend"]) == (runtime, runtime)


def test_a_missing_backend_follows_from_the_configured_file_name() -> None:
    text = SMALL.replace("python", "") + 'default_model_filename: "net.pt"'
    assert (parse(text).runtime, parse(text).file) == ("pytorch", "net.pt")
