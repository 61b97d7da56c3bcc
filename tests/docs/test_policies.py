"""docs/policies.md: its examples are valid, and its tables have every key with its default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from broker.records.endpoint import read_endpoint
from broker.records.rewards import Reward
from broker.support.strict import StrictModel
from deploy.yaml_text import documents
from router.declaration.policy import read_config
from router.kinds.bandit import BanditConfig, CountingConfig, LinearConfig
from router.kinds.canary import CanaryConfig
from router.kinds.epsilon_greedy import EpsilonGreedyConfig
from router.kinds.exp3 import Exp3Config
from router.kinds.interleave import InterleaveConfig
from router.kinds.lints import LinThompsonConfig
from router.kinds.linucb import LinUcbConfig
from router.kinds.shadow import ShadowConfig
from router.kinds.split import SplitConfig
from router.kinds.thompson import ThompsonConfig
from router.kinds.ucb import UcbConfig
from router.policies.declared import read_policy

TEXT = (Path(__file__).parents[2] / "docs/policies.md").read_text("utf-8")
EXAMPLES = [documents(block)[0] for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
WHOLE = EXAMPLES[0]
NEEDED, NONE = "needed", "none"

POLICIES: dict[str, tuple[dict[str, Any], type[StrictModel]]] = {
    "Split": ({"split": {"v1": 90}}, SplitConfig),
    "Shadow": ({"shadow": "v2", "serve": "v1"}, ShadowConfig),
    "Canary": ({"canary": "v3", "stable": "v1"}, CanaryConfig),
    "Bandits": ({"bandit": "thompson", "reward": "clicked"}, BanditConfig),
    "thompson": ({"bandit": "thompson", "reward": "clicked"}, ThompsonConfig),
    "epsilon_greedy": ({"bandit": "epsilon_greedy", "reward": "clicked"}, EpsilonGreedyConfig),
    "ucb": ({"bandit": "ucb", "reward": "clicked", "floor": 0.1}, UcbConfig),
    "exp3": ({"bandit": "exp3", "reward": "clicked"}, Exp3Config),
    "Interleave": ({"interleave": ["v1", "v2"], "credit": "clicked"}, InterleaveConfig),
}


def table(heading: str) -> dict[str, Any]:
    """The keys of a section's first table with their defaults, parsed as YAML, or `needed` or `none`."""
    section = re.split(rf"^##+ {heading}$", TEXT, flags=re.MULTILINE)[1]
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.+?)`|(needed|none)) \|", section.split("\n#")[0], re.MULTILINE)
    assert rows
    return {key: word or documents(default)[0] for key, default, word in rows}


def keys(kind: type[StrictModel]) -> dict[str, bool]:
    """The keys of a model, with True for those that are required."""
    return {field.alias or name: field.is_required() for name, field in kind.model_fields.items()}


def config_of(policy: dict[str, Any]) -> Any:
    return read_config(read_endpoint({**WHOLE, "policy": policy}, source="docs/policies.md"))


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_every_example_is_valid(example: dict[str, Any]) -> None:
    read_policy(read_endpoint({**WHOLE, **example}, source="docs/policies.md"))


@pytest.mark.parametrize("heading", POLICIES)
def test_a_table_names_every_key_and_its_default(heading: str) -> None:
    policy, kind = POLICIES[heading]
    documented = table(heading)
    common = {} if kind is BanditConfig or not issubclass(kind, BanditConfig) else keys(BanditConfig)
    assert {*documented, *common} == set(keys(kind))
    assert {key for key, default in documented.items() if default == NEEDED} == {
        key for key, needed in keys(kind).items() if needed and key in documented
    }
    for key, default in documented.items():
        if default not in (NEEDED, NONE):
            assert config_of({**policy, key: default}) == config_of(policy)


def test_the_table_of_linear_bandits_names_every_key_and_its_default() -> None:
    documented = table("linucb, lints")
    assert {*documented, *keys(BanditConfig)} == {*keys(LinUcbConfig), *keys(LinThompsonConfig)}
    for word, kind in (("linucb", LinUcbConfig), ("lints", LinThompsonConfig)):
        policy = {"bandit": word, "reward": "spent", "features": ["a"], "floor": 0.002}
        for key in set(documented) & set(keys(kind)) - {"features"}:
            assert config_of({**policy, key: documented[key]}) == config_of(policy)


def test_the_table_of_rewards_names_every_key_and_its_default() -> None:
    documented = table("Rewards")
    assert set(documented) == set(keys(Reward))
    reward = {"default": 0}
    for key, default in documented.items():
        if default not in (NEEDED, NONE):
            assert Reward.model_validate({**reward, key: default}) == Reward.model_validate(reward)


def test_the_tables_of_all_bandits_with_a_half_life_have_the_key_discount() -> None:
    for heading, (_, kind) in POLICIES.items():
        if issubclass(kind, CountingConfig):
            assert "discount" in table(heading)
    assert not issubclass(LinearConfig, CountingConfig)
