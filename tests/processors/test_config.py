"""`config.pbtxt` into what we serve."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from broker.errors import Misconfigured
from broker.inference import TensorSpec
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


def test_everything_served_is_read() -> None:
    config = parse(FULL)
    assert (config.name, config.runtime, config.file, config.max_batch_size) == ("ranker", "pytorch", "model.pt", 32)
    assert config.inputs == (TensorSpec("x", "FP32", (-1, 64)), TensorSpec("s", "BYTES", (-1, -1, 2)))
    assert config.outputs == (TensorSpec("y", "INT64", (-1, 10)),)
    assert config.preferred_batch_sizes == (8, 16)
    assert config.max_queue_delay_us == 500
    assert config.instance_count == 3
    assert config.parameters == {"a": "1", "b": "2"}
    assert config.versions == VersionPolicy(latest=2)


def test_a_small_config_has_plain_defaults() -> None:
    config = parse(SMALL)
    assert (config.name, config.runtime, config.file, config.max_batch_size) == ("ranker", "python", "model.py", 0)
    assert config.inputs == (TensorSpec("x", "FP32", (2,)),)
    assert (config.preferred_batch_sizes, config.max_queue_delay_us, config.instance_count) == ((), 0, 1)
    assert config.versions.choose([3, 1, 2]) == (1, 2, 3)


def test_the_json_is_tritons_with_numbers_as_numbers() -> None:
    written = json.loads(json.dumps(parse(FULL).json))
    assert written["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": [64]}
    assert written["dynamic_batching"] == {"preferred_batch_size": [16, 8], "max_queue_delay_microseconds": 500}
    assert written["parameters"]["a"] == {"string_value": "1"}
    assert parse(SMALL).json["name"] == "ranker"
    assert parse(SMALL).json["max_batch_size"] == 0


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        ("version_policy { all {} }", (1, 2, 10)),
        ("version_policy { latest {} }", (10,)),
        ("version_policy { latest { num_versions: 2 } }", (2, 10)),
        ("version_policy { specific { versions: [ 1, 7, 10 ] } }", (1, 10)),
    ],
)
def test_the_version_policy_chooses(policy: str, chosen: tuple[int, ...]) -> None:
    assert parse(SMALL + policy).versions.choose([10, 2, 1]) == chosen


@pytest.mark.parametrize(
    ("text", "says"),
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
        (SMALL + 'input { name: "x" data_type: TYPE_FP32 dims: 2 }', "names of their own"),
        (SMALL + "input { data_type: TYPE_FP32 dims: 2 }", "has no name"),
        (SMALL + 'input { name: "z" dims: 2 }', "data_type is TYPE_INVALID"),
        (SMALL + 'input { name: "z" data_type: TYPE_BF16 dims: 2 }', "data_type is TYPE_BF16"),
        (SMALL + 'input { name: "z" data_type: TYPE_FP32 dims: 0 }', "dims are"),
        (SMALL + 'input { name: "z" data_type: TYPE_FP32 dims: -2 }', "dims are"),
        (SMALL + 'input { name: "z" data_type: TYPE_FP32 dims: 2 optional: true }', "optional is not served"),
        (SMALL + 'input { name: "z" data_type: TYPE_FP32 dims: 1 reshape { shape: [] } }', "reshape is not served"),
        (SMALL + "sequence_batching {}", "sequence_batching is not served"),
        (SMALL + 'default_model_filename: "../x.py"', "plain file name"),
        (SMALL + "dynamic_batching { preferred_batch_size: 4 }", "preferred_batch_size"),
        (SMALL + "version_policy { specific {} }", "must list versions"),
        (SMALL + "version_policy { specific { versions: 0 } }", "must list versions"),
    ],
)
def test_a_config_that_cannot_be_served_says_why(text: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
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


def test_reading_a_config_does_not_import_tritons_client_and_does_not_hinder_it() -> None:
    program = (
        "import sys; from processors.config import parse_config\n"
        f"parse_config({SMALL!r}, model='m', source='s')\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('tritonclient', 'grpc', 'torch')]\n"
        "import tritonclient.grpc.model_config_pb2 as theirs\n"
        "assert theirs.ModelConfig(name='m').name == 'm'\n"
        f"parse_config({SMALL!r}, model='m', source='s')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
