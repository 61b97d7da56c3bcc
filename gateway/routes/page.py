"""/docs: one self-contained page, made from the OpenAPI description, with commands to copy."""

from __future__ import annotations

import shlex
from html import escape
from typing import Any

import orjson

from gateway.routes.openapi import openapi

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { background: #8882; padding: .6rem; overflow-x: auto; border-radius: 4px; }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; } code { font-family: ui-monospace, monospace; }
p { margin: .2rem 0; } :root { color-scheme: light dark; }
"""
UID = "01890a5d-ac96-774b-bcce-b302099a8057"
EXAMPLES = {"{endpoint}": "fraud", "{version}": "v1", "{model}": "fraud", "{uid}": UID}


def page(base: str) -> str:
    """Return the page as HTML; `base` is the address in the commands, such as http://localhost:8000."""
    parts = [
        _section(method, path, operation, base)
        for path, item in openapi()["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]
    title = openapi()["info"]["title"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title} {escape(openapi()['info']['version'])}</h1><p>{escape(openapi()['info']['description'])}</p>"
        '<p>For machines: <a href="/openapi.json">/openapi.json</a>. Errors are <code>{"error": "…"}</code>.</p>'
        f"{''.join(parts)}</html>"
    )


def _section(method: str, path: str, operation: dict[str, Any], base: str) -> str:
    answers = ", ".join(sorted(operation["responses"]))
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])} ({answers})</p>"
        f"<pre>{escape(_curl(method, path, operation, base))}</pre>"
    )


def _curl(method: str, path: str, operation: dict[str, Any], base: str) -> str:
    for name, example in EXAMPLES.items():
        path = path.replace(name, example)
    words = ["curl", "-i", base + path]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        words += ["-H", "content-type: application/json", "-d", orjson.dumps(body["example"]).decode()]
    elif method != "get":
        words += ["-X", method.upper()]
    return shlex.join(words)
