"""docs/extending/policy.md is true: its code runs, registered as packages register it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Misconfigured
from broker.protocol.ids import derived_uid
from broker.records.endpoint import Endpoint, read_endpoint
from deploy.yaml_text import documents
from router.declaration.policy import read_config
from router.declaration.registry import BANDITS, POLICIES
from router.declaration.schema import endpoint_schema
from router.drawing.router import Router
from router.evidence.replay import check_candidate
from router.evidence.standing import standing
from router.learning.bandit import BanditExperiment
from router.learning.declared import read_experiment
from router.policies.declared import read_policy
from router.policies.learning import one_run
from router.simulation.declared import simulated
from router.simulation.spec import SimulationSpec
from tests.router.evidence.logs import split_log
from tests.router.learning.traces import folded

TEXT = (Path(__file__).parents[2] / "docs/extending/policy.md").read_text("utf-8")
FILES = dict(re.findall(r"```python (\S+)\n(.*?)```", TEXT, re.DOTALL))
ENTRY_POINTS = re.findall(r'\[project\.entry-points\."(.+?)"\]\n(.+?) = "(.+?)"', TEXT)
PREFER, BANDIT, CANARY = [documents(block)[0] for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the page's files, installed as a distribution with its entry points."""
    for name, source in FILES.items():
        (tmp_path / name).write_text(source, "utf-8")
    info = tmp_path / "policies_of_ours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: policies-of-ours\nVersion: 1.0\n", "utf-8")
    lines = [f"[{group}]\n{name} = {value}\n" for group, name, value in ENTRY_POINTS]
    (info / "entry_points.txt").write_text("".join(lines), "utf-8")
    return tmp_path


@pytest.fixture
def _installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process find the distribution, and forget its classes afterwards."""
    monkeypatch.syspath_prepend(folder)
    modules = [Path(name).stem for name in FILES]
    for registry in (POLICIES, BANDITS):
        registry.refresh()
    yield
    monkeypatch.undo()
    for module in modules:
        sys.modules.pop(module, None)
    for registry in (POLICIES, BANDITS):
        registry.refresh()


def declared(document: dict[str, Any], **policy: Any) -> Endpoint:
    """Return the endpoint that a document of the page declares, with other keys in its policy."""
    return read_endpoint({**document, "policy": {**document["policy"], **policy}}, source="docs")


@pytest.mark.usefixtures("_installed")
def test_the_policy_is_drawn_from() -> None:
    endpoint = declared(PREFER)
    router = Router(endpoint, read_policy(endpoint), b"secret")
    plans = [router.plan(derived_uid(str(number).encode()), 0b111) for number in range(2000)]
    shares = Counter(plan.legs[0].arm for plan in plans)
    assert {plan.policy for plan in plans} == {"prefer"}
    assert shares["v2"] / 2000 == pytest.approx(0.8, abs=0.04)
    assert read_experiment(endpoint) is None


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prefer": "v9"}, "prefer: 'v9' is not an arm; declared arms: v1, v2, v3"),
        ({"shar": 0.5}, "unknown key; did you mean 'share'"),
        ({"share": 2}, "2 is not a share"),
    ],
)
def test_wrong_keys_of_the_policy_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(Misconfigured, match=re.escape(message)):
        read_config(declared(PREFER, **keys))


@pytest.mark.usefixtures("_installed")
def test_the_policy_can_be_replayed_in_the_log_of_a_split() -> None:
    logged = read_endpoint({**PREFER, "policy": {"split": ["v1", "v2", "v3"]}}, source="docs")
    check_candidate(logged, declared(PREFER))


@pytest.mark.usefixtures("_installed")
def test_the_schema_has_the_added_kinds() -> None:
    assert {"PreferConfig", "SoftmaxConfig", "SplitConfig"} <= set(endpoint_schema()["$defs"])


@pytest.mark.usefixtures("_installed")
def test_the_bandit_learns_the_best_arm() -> None:
    endpoint = declared(BANDIT)
    assert read_policy(endpoint).first().weights == (1 / 3, 1 / 3, 1 / 3)
    experiment = read_experiment(endpoint)
    assert isinstance(experiment, BanditExperiment)
    state = experiment.learning.fold(experiment.start(), one_run([0, 1, 1, 2], [0.0, 1.0, 1.0, 0.0], [0.3] * 4))
    weights = experiment.snapshot(state, 1).weights
    assert weights[1] == max(weights) > 0.9
    assert standing(endpoint, experiment.about(state))
    folded(experiment, split_log(50, 1))
    spec = SimulationSpec(
        rate=10.0, for_s=60.0, runs=2, seed=1, means={"v1": 0.1, "v2": 0.5, "v3": 0.1}, failures={}, noise={}
    )
    assert simulated(endpoint, spec)


def test_the_bandit_is_on_the_stable_side_of_a_canary(folder: Path) -> None:
    """In a new process: the model of a canary collects the bandits when it is first loaded."""
    code = f"""
import sys
sys.path.insert(0, {str(folder)!r})
from broker.records.endpoint import read_endpoint
from router.learning.bandit import BanditExperiment
from router.learning.declared import read_experiment
from router.policies.declared import read_policy
endpoint = read_endpoint({CANARY!r}, source="docs")
print(read_policy(endpoint).first().weights, read_experiment(endpoint).nested.learning.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=".")
    assert done.stdout == "(0.495, 0.495, 0.01) softmax\n"
