"""What every benchmark shares: the bundled pipeline, one run of it, and the file that figures go to."""

import argparse
import datetime
import json
import platform
from typing import Any

import torch

from benchmarks.rendering import RESULTS, bundled_digest
from foreseer.evaluate.sampling.environment import environment
from foreseer.pipelines import call_arguments, load_pipeline, split_sampling


def bundled() -> tuple[Any, list[str], dict[str, Any]]:
    """The bundled pipeline, its example prompts and its call options; the default guidance is among them."""
    pipe, sampling = load_pipeline("emoji")
    pipe.set_progress_bar_config(disable=True)
    return pipe, *split_sampling(sampling)


def asked(description: str, prompts: int, calibration: int) -> tuple[argparse.Namespace, Any, dict[str, Any]]:
    """What a benchmark of the bundled pipeline begins with.

    Returns:
        The counts on the command line, the pipeline, and its call options without a number of steps; torch has one
        thread from here on.

    Args:
        description: of the benchmark; its first line is shown.
        prompts: how many are drawn by default.
        calibration: how many are learned from by default.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=prompts)
    parser.add_argument("--calibration", type=int, default=calibration)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipe, _, options = bundled()
    options.pop("num_inference_steps")
    return given, pipe, options


def guided(options: dict[str, Any], cfg: float | None) -> dict[str, Any]:
    """The call options of the bundled pipeline with other guidance.

    ``None`` keeps the guidance embedding's scale, 1 is no guidance, more is classifier-free guidance by two forward
    passes at each step.
    """
    if cfg is None:
        return options
    plain = {**options, "guidance_scale": 1.0}
    return plain if cfg == 1 else {**plain, "true_cfg_scale": cfg, "negative_prompt": ""}


def sample(pipe: Any, prompt: str, options: dict[str, Any], steps: int, seed: int) -> torch.Tensor:
    """The final latent of one run."""
    arguments = call_arguments(pipe, prompt, {**options, "num_inference_steps": steps, "output_type": "latent"})
    return latents_of(pipe(**arguments, generator=torch.Generator().manual_seed(seed)))


def latents_of(output: Any) -> torch.Tensor:
    """What a pipeline of images or of videos gave with ``output_type="latent"``."""
    return output.images if hasattr(output, "images") else output.frames


def unfinished_rows(name: str, command: str) -> list[dict[str, Any]]:
    """The rows that an interrupted run of the same command on the same bundled model has written."""
    file = RESULTS / f"{name}.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    same = content.get("command") == command and content.get("bundled_model") == bundled_digest()
    return content["rows"] if same and content.get("unfinished") else []


def write(
    name: str, command: str, rows: list[dict[str, Any]], *, of_bundled: bool = True, unfinished: bool = False
) -> None:
    """Write rows to ``results/NAME.json`` with date, hardware and command; print a Markdown table.

    Args:
        name: of the file.
        command: that makes it again.
        rows: figures by column.
        of_bundled: whether they depend on the bundled model, whose weights are then identified in the file.
        unfinished: whether more rows follow; the same command then resumes (:func:`unfinished_rows`).
    """
    about: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": command,
        "platform": platform.platform(terse=True),
    }
    if of_bundled:
        about["bundled_model"] = bundled_digest()
    if unfinished:
        about["unfinished"] = True
    RESULTS.mkdir(exist_ok=True, parents=True)
    content = {**about, "environment": environment(), "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    if unfinished:
        return
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print(
            "| "
            + " | ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
            + " |"
        )
