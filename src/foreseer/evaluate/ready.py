"""What a bench needs before it begins: the pipeline, the prompts and the contenders, chosen by name or by preset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foreseer import zoo
from foreseer.errors import in_one_line
from foreseer.evaluate.bench import Bench
from foreseer.evaluate.contender import Contender
from foreseer.evaluate.contenders import Choice
from foreseer.evaluate.presets import PRESETS, Preset, PresetError, default_prompts, load_preset
from foreseer.evaluate.random_weights import RandomPipeline, Scale, meaningless_matrix, random_pipeline
from foreseer.forecast import L2P
from foreseer.pipelines import (
    DTYPES,
    PipelineError,
    load_pipeline,
    quiet_libraries,
    read_prompts,
    split_sampling,
    with_pictures,
)

STEPS = 50  # where neither the command nor the pipeline's folder says how many


@dataclass(frozen=True)
class Request:
    """What every bench is asked, whatever it compares.

    Attributes:
        prompts: a text file, one prompt a line; by default the pipeline's or the preset's examples.
        limit: use the first so many prompts.
        steps: of the reference; by default the pipeline's or the preset's.
        seed: of the first prompt; the next has the next.
        options: of the pipeline's call, as given, pictures as paths.
        measures: names; by default all that apply.
        real: a folder of real pictures, for FID.
        dtype: a name in ``DTYPES``.
        device: as torch names it.
        command: what was typed.
    """

    prompts: Path | None = None
    limit: int | None = None
    steps: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    measures: Sequence[str] | None = None
    real: Path | None = None
    dtype: str | None = None
    device: str | None = None
    command: str = ""

    def words(self) -> list[str] | None:
        """The prompts of the file, if one was given.

        Raises:
            PipelineError: it cannot be read, or holds no prompt.
        """
        return read_prompts(self.prompts) if self.prompts is not None else None

    def bench(self, model: str, prompts: Sequence[str], steps: int, **more: Any) -> Bench:
        """The bench on a model that is known."""
        common: dict[str, Any] = {"seed": self.seed, "measures": self.measures, "real": self.real}
        return Bench(model, prompts[: self.limit], steps, command=self.command, **{**common, **more})


@dataclass(frozen=True)
class Ready:
    """All that :func:`foreseer.evaluate.bench.run_bench` takes."""

    asked: Bench
    contenders: list[Contender]
    pipe: Any


@dataclass(frozen=True)
class Table:
    """A preset, and how it is run.

    Attributes:
        name: of the preset.
        model: name, folder or hub id; by default the paper's model.
        scale: of the architecture with random weights, instead of a model.
        rows: names of the rows to run; by default all.
        matrix: L2P's weight file.
        kernel: a kernel file to train L2P from.
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

    def learned(self) -> L2P | None:
        """L2P's matrix, where one is to be had: from a file, trained from a kernel, or of no meaning at random weights.

        Raises:
            ForeseerError: a file cannot be read.
        """
        kernel = self.kernel
        if kernel is None and self.model in zoo.NAMES and self.matrix is None:
            kernel = zoo.kernel_path(str(self.model))
        if self.matrix is not None:
            return L2P.from_text(self.matrix)
        if kernel is not None:
            from foreseer.kernel import Kernel
            from foreseer.methods.train_l2p import train_l2p

            return train_l2p(Kernel.load(kernel))
        return meaningless_matrix(STEPS) if self.scale is not None else None


def compare_methods(
    request: Request, model: str, choice: Choice, budgets: Callable[[int], Sequence[int | None]]
) -> Ready:
    """A bench of methods at budgets.

    Args:
        request: what is asked.
        model: name, folder or hub id.
        choice: of methods; its steps, budgets and options are filled in.
        budgets: of a run of so many steps.

    Raises:
        ForeseerError: a name, file, budget or the model is not to be had.
    """
    words, given = request.words(), budgets(request.steps or STEPS)
    trial = replace(choice, steps=request.steps or max(STEPS, *(one or 0 for one in given)), budgets=given)
    trial.contenders()  # bad usage is told before a model is loaded
    pipe, examples, options = _load(request, model)
    steps = request.steps or int(options.get("num_inference_steps", STEPS))
    options.pop("num_inference_steps", None)
    given = budgets(steps)
    bundled = model in zoo.NAMES and choice.methods is None
    kernels = choice.kernels or ([zoo.kernel_path(model)] if bundled else ())
    plans = [path for budget in given if budget and (path := zoo.plan_path(model, budget)).is_file()] if bundled else []
    plans = choice.plans or (plans if steps == STEPS else ())
    chosen = replace(choice, steps=steps, budgets=given, options=options, kernels=kernels, plans=plans)
    title = f"Foreseer bench: {model}, {steps} steps"
    return Ready(
        request.bench(model, words or examples, steps, options=options, title=title), chosen.contenders(), pipe
    )


def compare_preset(request: Request, table: Table) -> Ready:
    """A bench of a paper's table: on its model, on another pipeline, or on its architecture with random weights.

    Raises:
        ForeseerError: the preset, a row, a file or the model is not to be had.
    """
    preset, words, matrix = load_preset(table.name), request.words(), table.learned()
    steps = request.steps or preset.steps
    contenders = _rows(preset, preset.contenders(steps, matrix), table.rows)
    random: RandomPipeline | None = None
    if table.scale is not None:
        random = _random(request, preset, table.scale)
        size = "real size" if table.scale == "full" else "small size"
        model, pipe, examples, options = f"{random.title}, random weights, {size}", random.pipe, [], {**random.options}
    else:
        model = table.model or preset.model
        pipe, examples, options = _load(request, model)
    options = {**options, **preset.apply_to(pipe), **with_pictures(pipe, request.options)}
    options.pop("num_inference_steps", None)
    prompts = words or examples or default_prompts(preset)
    notes = [*_notes(preset, pipe, paper=words is not None, random=random)]
    more = {"decode": False, "unlike": "the weights are random"} if random is not None else {}
    asked = request.bench(
        model,
        prompts,
        steps,
        options=options,
        title=f"{preset.title} ({model})",
        notes=notes,
        published=preset.published,
        **more,
    )
    return Ready(asked, contenders, pipe)


def _load(request: Request, model: str) -> tuple[Any, list[str], dict[str, Any]]:
    """A pipeline, its example prompts, and the options of its call."""
    pipe, sampling = load_pipeline(model, request.dtype, request.device)
    pipe.set_progress_bar_config(disable=True)
    examples, defaults = split_sampling(sampling)
    return pipe, examples, {**defaults, **with_pictures(pipe, request.options)}


def _rows(preset: Preset, contenders: list[Contender], names: Sequence[str] | None) -> list[Contender]:
    if names is None:
        return contenders
    known = {one.name: one for one in contenders}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        wrong = f"No row {unknown[0]!r} in" if unknown else "No row is named of"
        raise PresetError(f"{wrong} preset {preset.name!r}: expected some of {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)]


def _random(request: Request, preset: Preset, scale: Scale) -> RandomPipeline:
    if preset.random_weights is None:
        able = ", ".join(name for name in PRESETS if load_preset(name).random_weights is not None)
        raise PresetError(f"The architecture of preset {preset.name!r} cannot be built; that of these can: {able}.")
    if request.dtype is not None and request.dtype not in DTYPES:
        raise PipelineError(f"Unknown dtype {request.dtype!r}: expected one of {', '.join(DTYPES)}.")
    dtype = DTYPES[request.dtype] if request.dtype is not None else None
    quiet_libraries()
    try:
        return random_pipeline(preset.random_weights, scale, request.device, dtype)
    except RuntimeError as error:  # torch does not know the device
        raise PipelineError(f"Cannot build on device {request.device!r}: {in_one_line(error)}.") from error


def _notes(preset: Preset, pipe: Any, *, paper: bool, random: RandomPipeline | None) -> list[str]:
    """What must be said under the table."""
    hardware = f", on {preset.hardware}" if preset.hardware is not None else ""
    notes = [f"Published figures: {preset.source}; {preset.model}{hardware}; prompts: {preset.prompts}."]
    if random is not None:
        notes.append(random.note)
    if random is not None and any(row.needs_matrix for row in preset.rows):
        notes.append("What a row of L2P holds does not change its cost: without a file its matrix has no meaning here.")
    if random is None and not preset.is_for(pipe):
        notes.append("Not the paper's model: size and guidance are this pipeline's own, and figures need not agree.")
    if not paper and random is None:
        notes.append("The prompts are not the paper's: give those with --prompts FILE.")
    return [*notes, *preset.notes]


def list_presets() -> list[dict[str, Any]]:
    """Every preset in words."""
    found = []
    for name in PRESETS:
        preset = load_preset(name)
        found.append(
            {
                "name": name,
                "title": preset.title,
                "model": preset.model,
                "steps": preset.steps,
                "random_weights": preset.random_weights,
                "rows": [row.name for row in preset.rows],
                "source": preset.source,
            }
        )
    return found
