"""`millrace demo --scenario`: trains models, serves them, plays the scenario, and prints its claims."""

from __future__ import annotations

from pathlib import Path

import uvloop
from rich.console import Console

from deploy.demo.progress import Steps
from deploy.demo.scenarios.bandit import BanditScenario
from deploy.demo.scenarios.canary import CanaryScenario
from deploy.demo.scenarios.claims import print_claims
from deploy.demo.scenarios.interleaving import InterleavingScenario
from deploy.demo.scenarios.scenario import Scenario, UnfitModels
from deploy.demo.scenarios.shadow import ShadowScenario
from deploy.demo.scenarios.stage import stage
from deploy.demo.serving import clean, serve_while, wait_for_arms
from deploy.demo.workspace import DemoWorkspace, check_broker, create_workspace, fresh_folder, print_log

SCENARIOS: dict[str, type[BanditScenario | CanaryScenario | ShadowScenario | InterleavingScenario]] = {
    "bandit": BanditScenario,
    "canary": CanaryScenario,
    "shadow": ShadowScenario,
    "interleaving": InterleavingScenario,
}
FAILED = 1
KEY = "a demonstration"  # the key of the draws; draws differ between runs, because request ids do


def run_scenario(name: str, *, broker: str, engine: str, requests: int | None, seed: int) -> int:
    """Run a scenario in a fresh folder; returns 0 only if all of its claims held."""
    console = Console()
    kind = SCENARIOS[name]
    scenario: Scenario = kind(seed=seed) if requests is None else kind(seed=seed, requests=requests)
    with fresh_folder(keep=False) as folder:
        settings = {"learner.tick": scenario.tick, "secrets.assignment": KEY}
        workspace = create_workspace(folder, broker=broker, engine=engine, more=settings)
        check_broker(workspace)
        return _play_in(folder, workspace, scenario, console)


def _play_in(folder: Path, workspace: DemoWorkspace, scenario: Scenario, console: Console) -> int:
    steps, held = Steps(console), False
    try:
        scenario.prepare(folder, steps)
        held = uvloop.run(_run(workspace, scenario, console, steps))
    except UnfitModels as exc:
        console.print(f"[red]{exc}[/]", highlight=False)
    finally:
        if not held:
            print_log(console, workspace.log)
    return 0 if held else FAILED


async def _run(workspace: DemoWorkspace, scenario: Scenario, console: Console, steps: Steps) -> bool:
    try:
        return bool(await serve_while(workspace, _play(workspace, scenario, console, steps)))
    finally:
        await clean(workspace.installation, scenario.models, scenario.arms)


async def _play(workspace: DemoWorkspace, scenario: Scenario, console: Console, steps: Steps) -> bool:
    await wait_for_arms(steps, workspace.installation, scenario.arms)
    async with stage(console, steps, workspace.installation, scenario.arms) as running:
        return print_claims(console, await scenario.play(running))
