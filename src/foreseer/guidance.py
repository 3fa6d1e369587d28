"""Guidance of a pipeline's call: the scales in effect, and how those of two calls differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from foreseer.files import read_json

EMBEDDED = "embedded"  # the scale that the network takes as an input
COMBINED = (  # arguments by which a pipeline combines outputs of several prompts or conditions
    *("guidance_scale", "guidance_scale_2", "true_cfg_scale"),
    *("image_guidance_scale", "img_guidance_scale", "audio_guidance_scale"),
)
DISTILLED = "distilled_guidance_scale"  # HunyuanImage's name of the embedded scale
NEGATIVE = ("negative_prompt", "negative_prompt_embeds")
ARGUMENTS = (*COMBINED, DISTILLED, *NEGATIVE)

# Largest ratio of two scales up to which rows of the one are used at the other, with a warning: an embedded scale is an
# input like the prompt, while a scale that combines branches multiplies the errors of both (docs/learning.md).
MOST_EMBEDDED, MOST_COMBINED = 2.0, 1.5
EQUAL = 1e-3  # relative

OTHER_GUIDANCE = (
    "Draw with the guidance of the rows, learn again with this one, or give allow_other_guidance=True (--force on the "
    "command line)."
)

Guidance = Mapping[str, float]


def guidance_of(arguments: Mapping[str, Any], *, embeds: bool, runs: bool | None = None) -> Guidance | None:
    """Return the scales in effect by argument; empty without guidance, ``None`` if unknown.

    Args:
        arguments: of the pipeline's call, defaults included.
        embeds: whether the network takes a scale as an input.
        runs: whether the pipeline says that ``guidance_scale`` combines branches; ``None`` if it does not say.

    >>> guidance_of({"guidance_scale": 3.5, "true_cfg_scale": 1.0}, embeds=True)
    {'embedded': 3.5}
    >>> guidance_of({"guidance_scale": 5.0}, embeds=False)
    {'guidance_scale': 5.0}
    """
    scales = {name: arguments[name] for name in (*COMBINED, DISTILLED) if arguments.get(name) is not None}
    if not all(isinstance(scale, int | float) and not isinstance(scale, bool) for scale in scales.values()):
        return None  # a scale for each step, say
    true_cfg = "true_cfg_scale" in arguments
    if "guidance_scale" in arguments.keys() - scales.keys() and (embeds or not true_cfg):
        return None  # the pipeline's own choice
    found: dict[str, float] = {}
    if embeds and (DISTILLED in scales or "guidance_scale" in scales):
        found[EMBEDDED] = float(scales[DISTILLED if DISTILLED in scales else "guidance_scale"])
    if true_cfg:
        negative = any(arguments.get(name) is not None for name in NEGATIVE)
        combined = {"true_cfg_scale"} if negative and scales.get("true_cfg_scale", 0.0) > 1 else set()
    else:
        if runs is None and not found:
            scale = scales.get("guidance_scale", 0.0)
            if 0 < scale < 1:
                return None  # whether it combines branches depends on the pipeline
            runs = scale > 1
        combined = {*COMBINED} if runs else set()
    return found | {name: float(scales[name]) for name in COMBINED if name in combined & scales.keys()}


def guidance_text(guidance: Guidance | None) -> str:
    """Write guidance as the text of a file's provenance; empty if unknown.

    >>> guidance_text({"embedded": 3.5}), guidance_text({}), guidance_text(None)
    ('{"embedded": 3.5}', '{}', '')
    """
    return "" if guidance is None else json.dumps(dict(guidance), sort_keys=True)


def read_guidance(text: str | None) -> Guidance | None:
    """Read the text of :func:`guidance_text`; ``None`` for the text of older files."""
    try:
        found = read_json(text or "")
    except ValueError:
        return None
    known = (*COMBINED, EMBEDDED)
    if not isinstance(found, dict) or not all(name in known and type(found[name]) is float for name in found):
        return None
    return found if all(map(math.isfinite, found.values())) else None


def in_words(guidance: Guidance) -> str:
    """Write guidance for a message.

    >>> in_words({"embedded": 3.5, "true_cfg_scale": 4.0}), in_words({})
    ('embedded guidance_scale 3.5 and true_cfg_scale 4', 'no guidance')
    """
    scales = [
        f"{'embedded guidance_scale' if name == EMBEDDED else name} {scale:g}"
        for name, scale in sorted(guidance.items())
    ]
    return " and ".join(scales) or "no guidance"


def difference(learned: Guidance, now: Guidance) -> str:
    """Write what rows were learned with and what a run has, as a sentence."""
    return f"The rows were learned with {in_words(learned)}, and this run has {in_words(now)}."


def distance(learned: Guidance, now: Guidance) -> float:
    """Return 0 for equal guidance, up to 1 where rows of the one still serve the other, and more beyond.

    >>> distance({"embedded": 3.5}, {"embedded": 5.0}) < 1 < distance({"guidance_scale": 3.0}, {"guidance_scale": 5.0})
    True
    >>> distance({}, {"guidance_scale": 3.0})
    inf
    """
    if (not learned.keys() - {EMBEDDED}) != (not now.keys() - {EMBEDDED}):
        return math.inf
    apart = [0.0]
    for name in learned.keys() & now.keys():
        most = MOST_EMBEDDED if name == EMBEDDED else MOST_COMBINED
        least, largest = sorted((learned[name], now[name]))
        if largest - least > EQUAL * abs(largest):
            apart.append(math.log(largest / least) / math.log(most) if least > 0 else math.inf)
    return max(apart)
