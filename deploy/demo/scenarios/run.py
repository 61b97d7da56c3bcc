"""`millrace demo --scenario`: trains models, serves them, plays the scenario, and prints its claims."""

from __future__ import annotations

from pathlib import Path

import uvloop
from rich.console import Console

from deploy.demo.place import DemoWorkspace, fresh_folder, place_in, print_log, reach
from deploy.demo.progress import Steps
from deploy.demo.scenarios.bandit import BanditScenario
from deploy.demo.scenarios.canary import CanaryScenario
from deploy.demo.scenarios.claims import print_claims
from deploy.demo.scenarios.interleaving import InterleavingScenario
from deploy.demo.scenarios.scenario import Scenario, UnfitModels
from deploy.demo.scenarios.shadow import ShadowScenario
from deploy.demo.scenarios.stage import stage
from deploy.demo.serving import clean, serve_while, wait_for_arms

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
        place = place_in(folder, broker=broker, engine=engine, more=settings)
        reach(place)
        return _play_in(folder, place, scenario, console)


def _play_in(folder: Path, place: DemoWorkspace, scenario: Scenario, console: Console) -> int:
    steps, held = Steps(console), False
    try:
        scenario.prepare(folder, steps)
        held = uvloop.run(_run(place, scenario, console, steps))
    except UnfitModels as exc:
        console.print(f"[red]{exc}[/]", highlight=False)
    finally:
        if not held:
            print_log(console, place.log)
    return 0 if held else FAILED


async def _run(place: DemoWorkspace, scenario: Scenario, console: Console, steps: Steps) -> bool:
    try:
        return bool(await serve_while(place, _play(place, scenario, console, steps)))
    finally:
        await clean(place.installation, scenario.models, scenario.arms)


async def _play(place: DemoWorkspace, scenario: Scenario, console: Console, steps: Steps) -> bool:
    await wait_for_arms(steps, place.installation, scenario.arms)
    async with stage(console, steps, place.installation, scenario.arms) as running:
        return print_claims(console, await scenario.play(running))
