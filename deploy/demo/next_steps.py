"""Prints command lines for `millrace demo --serve` that a user can copy."""

from __future__ import annotations

import shlex
from pathlib import Path

import orjson
from rich.console import Console

from deploy.demo.digits import load
from deploy.demo.folder import ENDPOINT, INPUT, OUTPUT
from deploy.hosts import shown
from deploy.wiring import Installation

REQUEST = "request.json"

TRITON = """\
import numpy as np, tritonclient.http as triton
client = triton.InferenceServerClient("{at}")
image = triton.InferInput("{input}", [1, 64], "FP32")
image.set_data_from_numpy(np.zeros((1, 64), np.float32))  # pixels from 0 to 16
print(client.infer("{endpoint}", [image]).as_numpy("{output}"))\
"""

CURL = """\
curl -i http://{at}/v2/models/{endpoint}/infer -d @{request}
curl http://{at}/v2/models/{endpoint}/feedback -d '{{"request_id": "…", "truth": {label}}}'  # its millrace-request-id\
"""

AMQP = """\
amqp-declare-queue -u {url} -q mine
amqp-publish -u {url} -r {queue} -t mine -C application/json < {request}
amqp-consume -u {url} -q mine -c 1 cat\
"""

PREDICT = "millrace predict {endpoint} --settings {settings}{flag} < {request}"
STATUS = "millrace status --settings {settings}{flag}"


def print_next_steps(console: Console, installation: Installation, broker_url: str) -> None:
    """Write a request to the folder, and print commands that use it."""
    settings = installation.settings
    request = settings.folder / REQUEST
    label = _write_request(request)
    words = {
        "at": shown(settings.gateway.host, settings.gateway.http_port),
        "endpoint": ENDPOINT,
        "input": INPUT,
        "output": OUTPUT,
        "request": shlex.quote(str(request)),
        "label": label,
        "url": shlex.quote(broker_url.rstrip("/")),  # the C tools read a slash at the end as an empty vhost
        "queue": settings.channels.requests(ENDPOINT),
        "settings": shlex.quote(str(installation.path)),
        "flag": f" --broker {shlex.quote(broker_url)}" if broker_url else "",
    }
    sections = [("curl", CURL), ("tritonclient", TRITON), ("the queue", PREDICT), ("what runs", STATUS)]
    if broker_url.startswith("amqp"):
        sections.insert(3, ("the queue, with tools of RabbitMQ alone", AMQP))
    for title, text in sections:
        console.print(f"\n[bold]{title}[/]")
        console.print(text.format(**words), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n{INPUT} is FP32 [-1,64] with pixels from 0 to 16, {OUTPUT} is FP32 [-1,10].", highlight=False)
    console.print(f"metrics: http://{shown(settings.metrics.host, settings.metrics.port)}/metrics", highlight=False)
    console.print(f"models, settings and logs: {settings.folder}", highlight=False)
    console.print("Ctrl-C stops.")


def _write_request(path: Path) -> int:
    """Write the first held-out digit as a request; returns its label."""
    _, held_out = load()
    data = held_out.images[0].tolist()
    tensor = {"name": INPUT, "shape": [1, len(data)], "datatype": "FP32", "data": data}
    path.write_bytes(orjson.dumps({"inputs": [tensor]}))
    return int(held_out.labels[0])
