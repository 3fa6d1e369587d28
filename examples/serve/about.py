"""The server's own page, from the schema of a request; it loads nothing."""

from __future__ import annotations

from html import escape
from typing import Any

ANSWERS = {
    "200": "a PNG; the headers X-Foreseer-Steps, -NFE, -NFE-Saved, -Fail-Opens and -Seed say what it took",
    "408": "the body took too long to arrive",
    "413": "the body is too long",
    "422": "not JSON, an unknown field, or a value out of its limits; the body says which",
    "503": "the queue is full; Retry-After says when to try again",
}
LIMITS = {"minimum": "at least", "maximum": "at most", "exclusiveMaximum": "below", "multipleOf": "a multiple of"}
LIMITS |= {"minLength": "characters at least", "maxLength": "characters at most"}
STYLE = """
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
td { vertical-align: top; padding: .3rem .6rem .3rem 0 }
pre { overflow-x: auto; padding: .6rem; border: 1px solid #8888 }
"""


def _table(*lines: tuple[str, ...]) -> str:
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _field(name: str, about: dict[str, Any]) -> tuple[str, str, str]:
    limits = ", ".join(f"{label} {about[key]}" for key, label in LIMITS.items() if key in about)
    return name, f"{about['type']}; {limits}", f"default {about['default']}" if "default" in about else "required"


def about_page(schema: dict[str, Any]) -> str:
    """The page, in HTML.

    Args:
        schema: JSON schema of a request.
    """
    fields = _table(*(_field(name, about) for name, about in schema["properties"].items()))
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Foreseer example server</title><link rel="icon" href="data:,"><style>{STYLE}</style>
<h1>Foreseer example server</h1>
<p>It draws pictures, and forecasts the network's output at most steps.</p>
<pre>curl -s URL/generate -d '{{"prompt": "a red apple on a blue background", "speedup": 5}}' -o apple.png</pre>
<h2>POST /generate</h2>{fields}<h3>Answers</h3>{_table(*ANSWERS.items())}
<h2>GET /health, GET /metrics, GET /openapi.json</h2>
<p>State of the worker and the queue; figures for Prometheus; this page for programs.</p>
</html>
"""
