"""`millrace demo`: trains, serves, sends requests, checks the answers, and prints the result."""

from __future__ import annotations

import asyncio
from pathlib import Path

import uvloop
from rich.console import Console

from deploy.demo.digits import Digits, load
from deploy.demo.folder import DECLARATION, ENDPOINT, write_endpoint, write_models
from deploy.demo.next_steps import print_next_steps
from deploy.demo.progress import Steps
from deploy.demo.serving import clean, serve_while
from deploy.demo.show import Show
from deploy.demo.train import ARMS, EPOCHS, train
from deploy.demo.workspace import DemoWorkspace, check_broker, create_workspace, fresh_folder, print_log

FAILED = 1


def run_demo(*, broker: str, serve: bool, engine: str, requests: int) -> int:
    """Run the demonstration in a fresh folder; returns 0 only if every request was answered exactly once."""
    console = Console()
    with fresh_folder(keep=serve) as folder:
        workspace = create_workspace(folder, broker=broker, engine=engine, known_ports=serve)
        check_broker(workspace)
        steps = Steps(console)
        digits = _train_into(folder, steps).take(requests)
        status = FAILED
        try:
            status = uvloop.run(_run(workspace, Show(console, steps, workspace.installation, digits), serve=serve))
        finally:
            if status:
                print_log(console, workspace.log)
        return status


async def _run(workspace: DemoWorkspace, show: Show, *, serve: bool) -> int:
    try:
        await serve_while(workspace, _shown(workspace, show, serve=serve))
    finally:
        if not serve:
            await clean(workspace.installation, ARMS, [ENDPOINT])
    return 0 if show.held else FAILED


async def _shown(workspace: DemoWorkspace, show: Show, *, serve: bool) -> None:
    await show.run()
    if serve:
        print_next_steps(show.console, workspace.installation, workspace.overrides.get("broker.url", ""))
        await asyncio.Event().wait()  # until Ctrl-C


def _train_into(folder: Path, steps: Steps) -> Digits:
    """Write the trained models and the endpoint that splits between them; returns the held-out digits."""
    learn, held_out = load()
    models = {}
    for arm, make in ARMS.items():
        with steps.step(f"training {arm} on {len(learn.labels)} digits", EPOCHS) as advance:
            models[arm] = train(make, learn, lambda advance=advance: advance(1))  # type: ignore[misc]
    write_models(folder, models)
    write_endpoint(folder, ENDPOINT, DECLARATION)
    return held_out
