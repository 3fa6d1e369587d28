"""The checks of one fixture: bits, forward passes, seeds, detaching, the record."""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

import foreseer as fs
from benchmarks.sweep.calls import modules_of
from benchmarks.sweep.fixtures import STEPS, Built, Fixture, same
from benchmarks.sweep.own import use_tests_of
from benchmarks.sweep.reasons import LENT, NO_COMPONENTS
from foreseer.attach.accelerate import accelerate, detach
from foreseer.attach.interception import is_hooked
from foreseer.attach.network.containers import flatten, rebuild
from foreseer.attach.run_record import RunRecord
from foreseer.calibration.calibrate import calibrate
from foreseer.errors import ForeseerError, in_one_line
from foreseer.pipelines import quiet_libraries

SITES = ("output", "last_block", "modules")


def policy(site: str, interval: int) -> fs.Policy:
    """Two-point extrapolation; with an interval of 1 every step is computed."""
    return fs.Policy(fs.schedule.Uniform(interval=interval), fs.forecast.Newton(order=1), site=site)


def try_fixture(fixture: Fixture) -> dict[str, Any]:
    """Everything that was seen of one fixture."""
    began = time.perf_counter()
    seen: dict[str, Any] = {"fixture": fixture.key, "pipeline": fixture.pipeline, "outcome": "unknown"}
    seen["torch"] = torch.__version__
    try:
        built = Built(fixture)
        plain = run_plain(built, seen)
    except BaseException as error:  # noqa: BLE001 - upstream's own code: whatever it raises is the result
        lent = f"{LENT}: " if fixture.modular and NO_COMPONENTS not in str(error) else ""
        seen |= {"outcome": "no fixture", "reason": f"{lent}{type(error).__name__}: {in_one_line(error)}"[:400]}
        return seen
    check(built, plain, seen)
    seen["seconds"] = round(time.perf_counter() - began, 1)
    return seen


def check(built: Built, plain: list[Any], seen: dict[str, Any], sites: Sequence[str] = SITES) -> None:
    """Every check of a pipeline whose plain run is known; ``seen`` gets what they saw."""
    if "reason" not in seen:
        seen["sites"] = {site: _site(built, plain, seen, site) for site in sites}
        seen["calibrated"] = _calibrated(built, seen)
        if seen["sites"]["output"].get("forecasts change it") is False:
            seen["depends on the network"] = _depends(built, plain, seen)
        detached = built.run()
        seen["detached equal"] = same(detached, plain) and not any(map(is_hooked, modules_of(built.pipe).values()))
        if seen["detached equal"] or same(detached, built.run()):
            seen["outcome"] = seen["sites"]["output"]["outcome"]
        else:
            seen |= {"outcome": "not repeatable", "reason": "two plain runs with one seed differ"}


def run_plain(built: Built, seen: dict[str, Any]) -> list[Any]:
    """The run without Foreseer; ``seen`` gets what it calls."""
    _first_run(built)
    with built.counted() as calls:
        plain = built.run()
    steps = calls.steps or STEPS
    seen |= {"steps": steps, "calls": dict(calls.modules), "layers": dict(calls.layers)}
    # Two denoisers may share the steps between them, so that neither is called at each.
    each = [name for name, at in calls.at.items() if len(at) > 1]
    seen["called at each step"] = sorted(each)
    seen["planned"] = {
        name: round(calls.modules[name] / len(calls.at[name])) * math.ceil(len(calls.at[name]) / 2) for name in each
    }
    if steps < 3 or not each:
        reason = f"{steps} scheduler steps; modules at each step: {sorted(each)}"
        loop = built.steps_name is not None and calls.steps
        seen |= {"outcome": "no steps", "reason": reason if loop else "no sampling loop: no scheduler steps"}
    return plain


def _depends(built: Built, plain: list[Any], seen: dict[str, Any]) -> bool:
    """Whether the result depends on the denoisers: a mask may keep the whole picture."""
    modules = modules_of(built.pipe)

    def double(_: nn.Module, __: Any, output: Any) -> Any:
        return rebuild(output, iter([2 * tensor for tensor in flatten(output)]))

    hooks = [modules[name].register_forward_hook(double) for name in seen["called at each step"]]
    try:
        return not same(built.run(), plain)
    finally:
        for hook in hooks:
            hook.remove()


def _first_run(built: Built) -> list[Any]:
    """The first run; it ends with latents if the pipeline can leave out decoding."""
    built.options = {"output_type": "latent"} if "output_type" in built.inputs(0) else {}
    try:
        result = built.run()
    except Exception:  # noqa: BLE001 - this pipeline decodes in any case
        result = []
    if not result:
        built.options = {}
        result = built.run()
    return result


@contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def _site(built: Built, plain: list[Any], seen: dict[str, Any], site: str) -> dict[str, Any]:
    """What one site does."""
    result: dict[str, Any] = {"site": site}
    try:
        with _quiet() as caught:
            _check_bits(built, plain, site, result)
            _check_forecasts(built, plain, seen, site, result)
        said = [str(each.message) for each in caught if isinstance(each.message, fs.ForeseerWarning)]
        result |= {"said": said[:2]} if said else {}
        result["outcome"] = _outcome(result)
    except ForeseerError as error:
        result |= {"outcome": "refused", "reason": in_one_line(error)[:400]}
    except Exception as error:  # noqa: BLE001 - a crash is a result too
        result |= {"outcome": "crash", "reason": f"{type(error).__name__}: {in_one_line(error)}"[:400]}
    finally:
        with suppress(ForeseerError):
            detach(built.pipe)
    return result


def _check_bits(built: Built, plain: list[Any], site: str, result: dict[str, Any]) -> None:
    with accelerate(built.pipe, policy(site, 1)) as handle:
        result["all computed equal"] = same(built.run(), plain)
        result["not as planned, all computed"] = sorted({each.reason for each in handle.record.failed_open})


def _check_forecasts(built: Built, plain: list[Any], seen: dict[str, Any], site: str, result: dict[str, Any]) -> None:
    records: dict[int, RunRecord] = {}
    with accelerate(built.pipe, policy(site, 2)) as handle:
        begin = handle.begin_run

        def begin_run(*args: Any) -> RunRecord:
            record = begin(*args)
            return records.setdefault(id(record), record)

        handle.begin_run = begin_run
        attached = [name for name, module in modules_of(built.pipe).items() if is_hooked(module)]
        with built.counted() as calls:
            first = built.run()
        runs = list(records.values())
        other = built.run(1) if site == "output" else []
        with built.counted() as later:
            again = built.run()
    with accelerate(built.pipe, policy(site, 2)):
        fresh = built.run(1) if site == "output" else []
    received = sum(seen["calls"].get(name, 0) for name in attached)
    unattached = [name for name in seen["called at each step"] if name not in attached]
    planned = sum(seen["planned"].get(name, 0) for name in attached)
    layers = max(1, sum(seen["layers"].get(name, 0) for name in attached))
    result |= {
        "attached": attached,
        "not attached": unattached,
        "calls": received,
        "forward passes": sum(calls.modules[name] for name in attached),
        "planned passes": planned,
        # The first run also verifies the site, and the later ones do not.
        "layers run": round(sum(calls.layers[name] for name in attached) / layers, 3),
        "forward passes later": sum(later.modules[name] for name in attached),
        "layers run later": round(sum(later.layers[name] for name in attached) / layers, 3),
        "same seed equal": same(first, again),
        "other seed equal": site != "output" or same(other, fresh),
        "forecasts change it": not same(first, plain),
    }
    if runs:
        result |= {
            "record": {
                "runs": len(runs),
                "nfe": sum(record.nfe for record in runs),
                "forward passes": sum(record.forward_passes for record in runs),
                "calls": sum(record.calls for record in runs),
                "late": sum(len(record.begun_late) for record in runs),
            },
            "failed open": [
                f"{each.step} {each.branch}: {each.reason}" for record in runs for each in record.failed_open
            ][:4],
        }


def _outcome(result: dict[str, Any]) -> str:
    """One word for what a site did."""
    record = result.get("record")
    if not result["all computed equal"]:
        return "other bits"
    if not (result["same seed equal"] and result["other seed equal"]):
        return "stale"
    if record is None:
        return "not seen"
    if record["calls"] != result["calls"]:
        return "record wrong"
    if result["failed open"]:
        return "fails open"
    passes = record["forward passes"]
    if result["site"] == "output" and result["forward passes"] != passes:
        return "record wrong"
    if passes > result["planned passes"]:
        if record["runs"] > 1:
            result["reason"] = "the call samples more than once, and each run computes its first steps"
        return "saves nothing" if passes == record["calls"] else "more than planned"
    return "as planned"


def _calibrated(built: Built, seen: dict[str, Any]) -> dict[str, Any]:
    """Calibrate on the fixture's own call, and run its learned rows."""
    inputs = built.inputs(0)
    steps = inputs.pop(built.steps_name, STEPS) if built.steps_name else STEPS
    prompt = inputs.pop("prompt", None) or inputs.pop("class_labels", None)
    inputs.pop("generator", None)
    if inputs.get("true_cfg_scale", 2) <= 1:  # diffusers drops it then
        inputs.pop("negative_prompt", None)
    try:
        with _quiet():
            prompts = prompt if isinstance(prompt, list) else ["" if prompt is None else prompt]
            kernel = calibrate(
                built.pipe,
                [str(each) for each in prompts[:1]],
                num_inference_steps=steps,
                sensitivity_prompts=0,
                **inputs,
            )
            with accelerate(built.pipe, kernel, nfe=4) as handle:
                built.run()
                record = handle.record
        nfe = None if record is None else record.nfe
        failed = [] if record is None else sorted({each.reason for each in record.failed_open})
        return {"outcome": "as planned" if nfe == min(4, seen["steps"]) else f"{nfe} steps", "failed open": failed}
    except ForeseerError as error:
        return {"outcome": "refused", "reason": in_one_line(error)[:400]}
    except Exception as error:  # noqa: BLE001 - a crash is a result too
        return {"outcome": "crash", "reason": f"{type(error).__name__}: {in_one_line(error)}"[:400]}
    finally:
        with suppress(ForeseerError):
            detach(built.pipe)


def set_up(checkout: Path) -> None:
    """One thread, no chatter from the libraries, and imported what most fixtures import."""
    torch.set_num_threads(1)
    quiet_libraries()
    use_tests_of(checkout)
    with suppress(ImportError):
        importlib.import_module("tests.pipelines.test_pipelines_common")
