"""The groups of tests that run side by side."""

from __future__ import annotations

import pytest

from tests.conftest import group_of


@pytest.mark.parametrize(
    "nodeid",
    [
        "tests/test_servers.py::test_a_killed_node",
        "tests/kill/test_node.py::test_a_killed_node[rabbitmq]",
        "tests/contract/test_kafka.py::TestKafka::test_a_ping",
        "tests/broker/rabbitmq/test_outages.py::test_a_restart[kill]",
        "tests/test_readme.py::test_a_snippet[curl]",
    ],
)
def test_all_tests_on_servers_are_one_group(nodeid: str) -> None:
    assert group_of(nodeid) == "servers"


def test_tests_on_the_embedded_broker_and_tests_without_a_broker_are_groups_of_their_own() -> None:
    assert group_of("tests/kill/test_poison.py::test_poison[sqlite-3]") == "tests/kill/test_poison.py-embedded"
    assert group_of("tests/router/stats/test_eprocess.py::test_wealth[0.1]") == "tests/router/stats/test_eprocess.py"
    assert group_of("tests/kill/test_node.py::test_x[kafka]", with_servers=False) == "tests/kill/test_node.py"


def test_tests_with_ray_are_one_group() -> None:
    assert group_of("tests/deploy/test_wiring.py::test_files[ray]") == "ray"
