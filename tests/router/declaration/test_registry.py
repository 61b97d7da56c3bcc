"""The tables of policies and bandits: built-in kinds load, and those of other packages cannot break or replace them."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import Misconfigured
from router.declaration.registry import BANDITS, POLICIES, Registry
from router.kinds.bandit import BanditConfig
from router.kinds.split import SplitConfig

BUILT_IN = {"split": "router.kinds.split:SplitConfig"}


def registry(folder: Path, monkeypatch: pytest.MonkeyPatch, **entry_points: str) -> Registry:
    """Return a registry of one built-in kind, and of those that a distribution adds."""
    info = folder / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", "utf-8")
    lines = "".join(f"{name} = {value}\n" for name, value in entry_points.items())
    (info / "entry_points.txt").write_text(f"[millrace.tried]\n{lines}", "utf-8")
    monkeypatch.syspath_prepend(folder)
    return Registry("millrace.tried", BUILT_IN)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_has_a_key_of_its_name(name: str) -> None:
    assert name in POLICIES[name].model_fields


@pytest.mark.parametrize("name", BANDITS)
def test_a_bandit_has_the_name_that_its_model_expects(name: str) -> None:
    kind = BANDITS[name]
    assert issubclass(kind, BanditConfig)
    assert name in str(kind.model_fields["bandit"].annotation)


def test_a_kind_of_another_package_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry(tmp_path, monkeypatch, ours="router.kinds.shadow:ShadowConfig")
    assert list(found) == ["split", "ours"]
    assert len(found) == 2
    assert found["ours"].__name__ == "ShadowConfig"
    with pytest.raises(KeyError):
        found["another"]


def test_a_built_in_kind_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry(tmp_path, monkeypatch, split="router.kinds.shadow:ShadowConfig")
    assert list(found) == ["split"]
    assert found["split"] is SplitConfig


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no.such_module:Kind", "broken = no.such_module:Kind cannot be imported: No module named 'no'"),
        ("router.kinds.split:Missing", "cannot be imported"),
        ("router.policies.split:Split", "broken = router.policies.split:Split is no subclass of PolicyConfig"),
    ],
)
def test_a_kind_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    with pytest.raises(Misconfigured, match=message):
        registry(tmp_path, monkeypatch, broken=value)["broken"]
