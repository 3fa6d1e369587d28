"""Prepare a bench: check what was asked for, then load the pipeline and make the entries.

Nothing here imports a tensor library until every check that needs none has passed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreseer import zoo
from foreseer.checks import unknown_name
from foreseer.errors import in_one_line
from foreseer.evaluate.architectures.random_models import Scale
from foreseer.evaluate.bench.bench import Bench
from foreseer.evaluate.bench.result_store import BenchError
from foreseer.evaluate.bench.selection import Selection, l2p_rows
from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.entries.trial_prompts import trial_prompts
from foreseer.evaluate.metrics import check_measures
from foreseer.evaluate.presets import PRESETS, Preset, PresetError, default_prompts, load_preset
from foreseer.forecast import Forecaster
from foreseer.pipelines import (
    PipelineError,
    check_call,
    check_dtype,
    load_pipeline,
    locate_model,
    quiet_libraries,
    read_prompts,
    split_sampling,
    torch_dtype,
    with_pictures,
)

if TYPE_CHECKING:
    from foreseer.evaluate.architectures.random_weights import RandomPipeline

STEPS = 50  # unless the command or the pipeline's folder sets the steps


@dataclass(frozen=True)
class BenchRequest:
    """Options of a bench that do not depend on what it compares.

    Attributes:
        prompts: list, or text file with one per line; by default the pipeline's or the preset's examples.
        limit: number of prompts to use, from the first.
        steps: steps of the reference; by default the pipeline's or the preset's.
        seed: seed of the first prompt; each next prompt adds one.
        options: options of the pipeline's call, pictures as paths.
        measures: names; by default all that apply.
        real: folder of real pictures, for FID.
        dtype: a name in ``DTYPES``.
        device: as torch names it.
        command: command line that started the bench.
    """

    prompts: Path | Sequence[str] | None = None
    limit: int | None = None
    steps: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    measures: Sequence[str] | None = None
    real: Path | None = None
    dtype: str | None = None
    device: str | None = None
    command: str = ""

    def read_prompts(self) -> list[str] | None:
        """List the prompts that were given, reading them if they are in a file.

        Raises:
            PipelineError: the file cannot be read, or holds no prompt.
        """
        if self.prompts is None or isinstance(self.prompts, Path):
            return read_prompts(self.prompts) if self.prompts is not None else None
        return list(self.prompts)

    def check(self) -> None:
        """Refuse what can be refused without loading anything.

        Raises:
            ForeseerError: a measure or dtype is unknown, or a file or folder is missing.
        """
        check_measures(self.measures, BenchError)
        check_dtype(self.dtype)
        if self.real is not None and not self.real.is_dir():
            raise BenchError(f"{self.real} is not a folder: --real expects a folder of pictures.")

    def bench(self, model: str, prompts: Sequence[str], steps: int, **settings: Any) -> Bench:
        """Make the bench of a loaded model; ``settings`` replace those of the request."""
        common: dict[str, Any] = {"seed": self.seed, "measures": self.measures, "real": self.real}
        return Bench(model, prompts[: self.limit], steps, command=self.command, **{**common, **settings})


@dataclass(frozen=True)
class PreparedBench:
    """Arguments of :func:`foreseer.evaluate.bench.bench.run_bench`."""

    bench: Bench
    entries: list[Entry]
    pipe: Any


@dataclass(frozen=True)
class PresetRequest:
    """A preset and how to run it.

    Attributes:
        name: name of the preset.
        model: name, folder or hub id; by default the paper's model.
        scale: scale of the architecture with random weights, in place of a model.
        rows: names of the rows to run; by default all.
        matrix: L2P's weight file.
        kernel: kernel file to train L2P from.

    Raises:
        PresetError: two options exclude each other.
    """

    name: str
    model: str | None = None
    scale: Scale | None = None
    rows: Sequence[str] | None = None
    matrix: Path | None = None
    kernel: Path | None = None

    def __post_init__(self) -> None:
        if self.model is not None and self.scale is not None:
            raise PresetError("Give a model or random weights, not both.")
        if self.matrix is not None and self.kernel is not None:
            raise PresetError("L2P takes a weight file or a kernel to be trained from, not both.")

    def l2p_rows(self) -> Forecaster | None:
        """Get L2P's rows: read, trained from a kernel, or meaningless for random weights; else ``None``.

        Raises:
            ForeseerError: a file cannot be read.
        """
        bundled = self.model is not None and self.model in zoo.NAMES and self.matrix is None
        kernel = zoo.kernel_path(str(self.model)) if self.kernel is None and bundled else self.kernel
        if self.matrix is not None or kernel is not None:
            return l2p_rows(self.matrix, kernel)
        if self.scale is None:
            return None
        from foreseer.evaluate.architectures.random_weights import meaningless_matrix

        return meaningless_matrix(STEPS)


def compare_methods(
    request: BenchRequest, model: str, selection: Selection, budgets_of: Callable[[int], Sequence[int | None]]
) -> PreparedBench:
    """Prepare a bench of methods at budgets.

    Args:
        request: the bench's options.
        model: name, folder or hub id.
        selection: the methods; its steps, budgets, options and trial prompts are filled in.
        budgets_of: function from the steps of the reference to the budgets.

    Raises:
        ForeseerError: a name, file, budget or the model cannot be used.
    """
    request.check()
    prompts, folder = request.read_prompts(), locate_model(model)
    check_call(folder, request.options)
    steps = request.steps or int(zoo.sampling(folder).get("num_inference_steps", STEPS))
    selection = replace(selection, steps=steps, budgets=(1,) if selection.forward_passes else budgets_of(steps))
    _complete(selection, model).entries()  # refuses unknown names, budgets and unreadable files
    pipe, examples, options = _load(request, model)
    options.pop("num_inference_steps", None)
    selection = replace(selection, options=options)
    measured = (prompts or examples)[: request.limit]
    selection = replace(selection, trial_prompts=trial_prompts(pipe, examples, measured))
    title, notes = f"Foreseer bench: {model}, {steps} steps", []
    if selection.forward_passes:
        per_step = _passes_per_step(pipe, selection)
        selection = selection.in_steps(per_step)
        budgets = ", ".join(f"{passes} in {budget} steps" for budget, passes in selection.passes_of.items())
        notes = [f"Budgets in forward passes, {per_step:g} per step: {budgets}."]
    bench = request.bench(model, measured, steps, options=options, title=title, notes=notes)
    return PreparedBench(bench, _complete(selection, model).entries(), pipe)


def _passes_per_step(pipe: Any, selection: Selection) -> float:
    """Count the calls of the network in a run that computes every step."""
    from foreseer.evaluate.peers import Probe

    return Probe(pipe, selection.steps, selection.trial_prompts[0], selection.options).branches


def _complete(selection: Selection, model: str) -> Selection:
    """Add the files of a bundled model if no methods were named."""
    return _with_bundled_files(selection, model) if model in zoo.NAMES and selection.methods is None else selection


def compare_preset(request: BenchRequest, preset_request: PresetRequest) -> PreparedBench:
    """Prepare a bench of a paper's table, on any pipeline or with random weights.

    Raises:
        ForeseerError: the preset, a row, a file or the model cannot be used.
    """
    request.check()
    preset = load_preset(preset_request.name)
    file_prompts = request.read_prompts()
    _rows(preset, preset.entries(), preset_request.rows)  # refuses unknown rows
    folder = Path(preset.model)
    if preset_request.scale is None:
        folder = locate_model(preset_request.model or preset.model)
    elif preset.random_weights is None:
        buildable = ", ".join(name for name in PRESETS if load_preset(name).random_weights is not None)
        raise PresetError(f"The architecture of preset {preset.name!r} cannot be built; expected one of {buildable}.")
    check_call(folder, request.options, preset.options)
    matrix = preset_request.l2p_rows()
    steps = request.steps or preset.steps
    entries = _rows(preset, preset.entries(steps, matrix), preset_request.rows)
    random: RandomPipeline | None = None
    if preset_request.scale is not None:
        random = _random(request, preset, preset_request.scale)
        size = "real size" if preset_request.scale == "full" else "small size"
        model, pipe, examples, options = f"{random.title}, random weights, {size}", random.pipe, [], {**random.options}
    else:
        model = preset_request.model or preset.model
        pipe, examples, options = _load(request, model)
    options = {**options, **preset.apply_to(pipe), **with_pictures(pipe, request.options)}
    options.pop("num_inference_steps", None)
    settings = {"decode": False, "incomparable": "the weights are random"} if random is not None else {}
    bench = request.bench(
        model,
        file_prompts or examples or default_prompts(preset),
        steps,
        options=options,
        title=f"{preset.title} ({model})",
        notes=_notes(preset, pipe, paper_prompts=file_prompts is not None, random=random),
        published=preset.published,
        **settings,
    )
    return PreparedBench(bench, entries, pipe)


def _load(request: BenchRequest, model: str) -> tuple[Any, list[str], dict[str, Any]]:
    """Load a pipeline, its example prompts, and the options of its call."""
    pipe, sampling = load_pipeline(model, request.dtype, request.device)
    pipe.set_progress_bar_config(disable=True)
    examples, defaults = split_sampling(sampling)
    return pipe, examples, {**defaults, **with_pictures(pipe, request.options)}


def _with_bundled_files(selection: Selection, model: str) -> Selection:
    """Add the bundled kernel, and the bundled plans at the budgets, unless files were given."""
    paths = [zoo.plan_path(model, budget) for budget in selection.budgets if budget]
    bundled_plans = [path for path in paths if path.is_file()] if selection.steps == STEPS else []
    return replace(
        selection, kernels=selection.kernels or [zoo.kernel_path(model)], plans=selection.plans or bundled_plans
    )


def _rows(preset: Preset, entries: list[Entry], names: Sequence[str] | None) -> list[Entry]:
    if names is None:
        return entries
    by_name = {entry.name: entry for entry in entries}
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        if unknown:
            raise PresetError(unknown_name(f"row of {preset.name}", unknown[0], by_name))
        raise PresetError(f"No row of preset {preset.name!r} is named: expected some of {', '.join(by_name)}.")
    return [by_name[name] for name in dict.fromkeys(names)]


def _random(request: BenchRequest, preset: Preset, scale: Scale) -> RandomPipeline:
    from foreseer.evaluate.architectures.random_weights import random_pipeline

    assert preset.random_weights is not None
    dtype = torch_dtype(request.dtype) if request.dtype is not None else None
    quiet_libraries()
    try:
        return random_pipeline(preset.random_weights, scale, request.device, dtype)
    except RuntimeError as error:  # torch does not know the device
        raise PipelineError(f"Cannot build on device {request.device!r}: {in_one_line(error)}.") from error


def _notes(preset: Preset, pipe: Any, *, paper_prompts: bool, random: RandomPipeline | None) -> list[str]:
    """Write the notes under the table."""
    hardware = f", on {preset.hardware}" if preset.hardware is not None else ""
    notes = [f"Published figures: {preset.source}; {preset.model}{hardware}; prompts: {preset.prompts}."]
    if random is not None:
        notes.append(random.note)
    if random is not None and any(row.needs_matrix for row in preset.rows):
        notes.append("L2P's cost does not depend on its weights: without a file its matrix is meaningless here.")
    if random is None and not preset.is_for(pipe):
        notes.append("Not the paper's model: size and guidance are this pipeline's own, so figures may differ.")
    if not paper_prompts and random is None:
        notes.append("The prompts are not the paper's: give those with --prompts FILE.")
    return [*notes, *preset.notes]
