"""A valid file of each kind that Foreseer reads, its reader, and invariants of the content."""

import dataclasses
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import foreseer as fs
from foreseer.errors import PlanFileError
from foreseer.evaluate.bench.result_store import ResultStore
from foreseer.files import MOST_PNG_BYTES
from foreseer.files.png import SIGNATURE
from foreseer.forecast.l2p import read_weight_text
from foreseer.kernel.branches import Branches
from foreseer.kernel.kernel import Kernel
from foreseer.kernel.kernel_file import KernelFileError
from foreseer.methods.profile import Profile, ProfileError
from foreseer.pipelines import PipelineError, read_prompts
from foreseer.plan import Plan
from foreseer.plan.mixing import ChannelMixing, MixedSegment
from foreseer.site import KINDS
from foreseer.zoo import ZooError, sampling

PICTURE = SIGNATURE + b"\0\0\0\rIHDR" + (4).to_bytes(4, "big") * 2 + bytes(64)  # never decoded


@dataclass
class Subject:
    """One kind of file.

    Attributes:
        name: of the kind.
        content: of a good file.
        file: its name.
        read: from its path to what it holds.
        error: what alone may be raised.
        check: what is wrong with what was read, whatever the file held; an empty string if nothing.
        same: whether two readings are equal. ``None`` if damage gives another valid file (text).
        structured: whether it is safetensors with metadata that the reader checks.
        spare: bytes of memory granted beside twice the file's size.
    """

    name: str
    content: bytes
    file: str
    read: Any
    error: type
    check: Any
    same: Any = None
    structured: bool = False
    spare: int = 2**23


def make_plan(steps, seed, branches=(), parts=()):
    """A plan with random weights."""
    rng = np.random.default_rng(seed)
    computed = (0, *sorted(rng.choice(np.arange(1, steps), size=steps // 3, replace=False).tolist()))

    def rows():
        made = np.zeros((steps, steps))
        for i in range(steps):
            before = [j for j in computed if j < i]
            made[i, before] = 0.0 if i in computed else rng.normal(size=len(before))
            made[i, i] = float(i in computed)
        return made

    grid = fs.Grid.uniform(steps)
    own, of_parts = ({name: rows() for name in names} for names in (branches, parts))
    start = np.where(np.isin(np.arange(steps), computed), 0.0, rng.normal(size=steps)) if branches else None
    return Plan(grid, computed, rows(), "output", {"seed": str(seed)}, own, part_rows=of_parts, start_row=start)


def make_mixed_plan(steps, seed, channels=3):
    """A plan that mixes channels in every segment of skipped steps."""
    plan, rng = make_plan(steps, seed), np.random.default_rng(seed)
    segments = []
    for start, end in itertools.pairwise((*plan.computed_steps, steps)):
        corrected = tuple(range(start + 1, end))
        sources = tuple(j for j in plan.computed_steps if j <= start)
        matrices = rng.normal(size=(len(sources), channels, channels)).astype(np.float32)
        if corrected:
            segments.append(MixedSegment("", corrected, rng.normal(size=len(corrected)), sources, matrices))
    return dataclasses.replace(plan, mixing=ChannelMixing(-1, tuple(segments)))


def make_kernel(steps, prompts, branches=(), seed=0):
    """A kernel of random features."""
    rng = np.random.default_rng(seed)
    count = max(1, len(branches))
    features = rng.normal(size=(prompts, count * steps, 3 * steps))
    apart = features @ features.transpose(0, 2, 1)
    mixing = np.array([3.0, -2.0, 1.0])[:count] if branches else np.ones(1)
    across = np.kron(mixing, np.eye(steps))
    more = {"branches": Branches(tuple(branches), mixing, apart)} if branches else {}
    sampler = np.tril(rng.normal(size=(steps + 1, steps + 1)))
    squares, outputs = rng.uniform(1, 2, size=prompts), rng.uniform(1, 2, size=(prompts, steps))
    grams = across @ apart @ across.T
    grams = (grams + grams.transpose(0, 2, 1)) / 2
    return Kernel(
        fs.Grid.uniform(steps), grams, sampler, squares, "output", {"model": "m"}, output_squares=outputs, **more
    )


def _grid_fault(grid):
    levels = [float(level) for level in grid.levels]
    falls = all(math.isfinite(level) for level in levels) and all(a > b for a, b in itertools.pairwise(levels))
    if not levels or not falls or not math.isfinite(grid.final_level) or grid.final_level > levels[-1]:
        return "levels"
    return "" if grid.unit in ("sigma", "timestep") else "unit"


def _words_fault(one):
    if not all(isinstance(word, str) for item in one.provenance.items() for word in item):
        return "provenance"
    return "" if isinstance(one.site, str) and one.site.split("(")[0].strip() in KINDS else "site"


def plan_fault(plan):
    """What is wrong with a plan."""
    steps, computed = len(plan.grid), list(plan.computed_steps)
    if not computed or computed[0] != 0 or computed != sorted(set(computed)) or computed[-1] >= steps:
        return "steps"
    for rows in (plan.rows, *plan.branch_rows.values(), *plan.part_rows.values()):
        if rows.shape != (steps, steps) or rows.dtype != np.float64 or rows.flags.writeable:
            return "rows"
        for i in range(steps):
            free = {j for j in computed if j < i} if i not in computed else set()
            for j in np.flatnonzero(rows[i]).tolist():
                if not (j in free or (j == i and i in computed and rows[i, i] == 1)) or not math.isfinite(rows[i, j]):
                    return f"weight {i}, {j}"
            if i in computed and rows[i, i] != 1:
                return f"weight {i}, {i}"
    start = plan.start_row
    if start is not None and (start.shape != (steps,) or not np.all(np.isfinite(start)) or start[computed].any()):
        return "first sample's weights"
    return _mixing_fault(plan) or _grid_fault(plan.grid) or _words_fault(plan)


def _mixing_fault(plan):
    computed = {-1, *plan.computed_steps}
    for segment in plan.mixing.segments if plan.mixing is not None else ():
        names = ("", *plan.branch_rows)
        if plan.mixing.axis not in (-1, 1, 2) or segment.branch not in names or not set(segment.sources) <= computed:
            return "mixing's axis, branch or sources"
        steps = range(max(segment.sources) + 1, len(plan.grid))
        if not segment.steps or not set(segment.steps) <= set(steps) or len(segment.shares) != len(segment.steps):
            return "mixing's steps"
        shape = (len(segment.sources), plan.mixing.channels, plan.mixing.channels)
        if segment.matrices.shape != shape or not np.all(np.isfinite(segment.matrices)):
            return "mixing's matrices"
    return ""


def kernel_fault(kernel):
    """What is wrong with a kernel."""
    steps = len(kernel.grid)
    moments = [kernel.grams, *([kernel.branches.grams] if kernel.branches is not None else [])]
    if kernel.grams.shape[1:] != (steps, steps) or not (math.isfinite(kernel.sensitivity) and kernel.sensitivity >= 0):
        return "shape or sensitivity"
    for grams in moments:
        for gram in grams:
            squares = np.diag(gram)
            most = float(np.abs(gram).max())
            if not np.all(np.isfinite(gram)) or squares.min() < 0 or np.abs(gram - gram.T).max() > 1e-8 * most:
                return "moments"
            if np.any(np.abs(gram) > 1.00001 * np.sqrt(np.outer(squares, squares)) + 1e-11 * most):
                return "moments beyond their squares"
    for name, shape in (
        ("sampler", (steps + 1,) * 2),
        ("final_squares", (kernel.prompts,)),
        ("output_squares", (kernel.prompts, steps)),
    ):
        array = getattr(kernel, name)
        if array is not None and (array.shape != shape or not np.all(np.isfinite(array))):
            return name
        if array is not None and name != "sampler" and array.min() < 0:
            return name
    return _grid_fault(kernel.grid) or _words_fault(kernel)


def same_plan(one, other):
    """Equal in all that a file keeps."""
    return one == other and dict(one.provenance) == dict(other.provenance)


def same_kernel(one, other):
    """Equal in all that a file keeps."""
    names = ("grams", "sampler", "final_squares", "output_squares")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    if one.branches is not None and other.branches is not None:
        pairs += [(one.branches.grams, other.branches.grams), (one.branches.mixing, other.branches.mixing)]
    words = [(k.grid, k.site, k.sensitivity, dict(k.provenance), k.branches and k.branches.names) for k in (one, other)]
    return words[0] == words[1] and all(
        (a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in pairs
    )


def profile_fault(profile):
    """What is wrong with a profile."""
    faults = [kernel_fault(profile.kernel), *map(plan_fault, profile.plans)]
    sites = {part.site for part in (profile.kernel, *profile.plans)}
    picture = profile.thumbnail
    good = picture is None or (picture.startswith(SIGNATURE) and len(picture) <= MOST_PNG_BYTES)
    return next(filter(None, faults), "") or ("" if len(sites) == 1 and good else "site or thumbnail")


def same_profile(one, other):
    """Equal in all that a file keeps."""
    return (
        same_kernel(one.kernel, other.kernel)
        and len(one.plans) == len(other.plans)
        and all(map(same_plan, one.plans, other.plans))
        and (dict(one.provenance), one.thumbnail) == (dict(other.provenance), other.thumbnail)
    )


def _matrix_fault(matrix):
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] and 1 <= matrix.shape[0] <= 1000
    return "" if square and np.all(np.isfinite(matrix)) and not np.any(np.triu(matrix, 1)) else "matrix"


def _read_matrix(path):
    read_weight_text(path)
    return np.asarray(fs.forecast.L2P.from_text(path).matrix)


def _prompts_fault(prompts):
    return "" if prompts and all(isinstance(one, str) and one and one == one.strip() for one in prompts) else "prompts"


def _sampling_fault(found):
    steps, prompts = found.get("num_inference_steps", 1), found.get("prompts", [])
    good = type(steps) is int and steps >= 1 and all(isinstance(one, str) for one in prompts)
    return "" if isinstance(found, dict) and good else "options"


def _same_arrays(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


class DamagedError(Exception):
    """A cell of a bench that is not taken: it is measured again."""


def _taken(found):
    if found is None:
        raise DamagedError("the cell is damaged and measured again")
    return found


def _saved(folder, thing):
    path = folder / "made"
    thing.save(path)
    return path.read_bytes()


def make_subjects(folder: Path) -> list[Subject]:
    """All kinds; ``folder`` is for making them."""
    plan = {"read": Plan.load, "error": PlanFileError, "check": plan_fault, "same": same_plan, "structured": True}
    kernel = {
        "read": Kernel.load,
        "error": KernelFileError,
        "check": kernel_fault,
        "same": same_kernel,
        "structured": True,
    }
    cells = ResultStore(folder)
    cells.write("cell.json", {"steps": 50, "nfe": 10, "seconds": 1.5, "fidelity": {"psnr": None}, "finite": True})
    cells.write_arrays("cell.safetensors", {"sample": np.ones((4, 4, 3), np.float32), "10": np.zeros(8, np.float32)})
    triangle = "\n".join(" ".join(f"{1 / (i + j + 1):.6f}" for j in range(i + 1)) for i in range(12)).encode()
    brackets = json.dumps([[float(j <= i) / (j + 1) for j in range(8)] for i in range(8)]).encode()
    prompts = "\n".join(f"a red apple, number {i} \u00e9" for i in range(20)).encode()
    options = json.dumps({"height": 64, "num_inference_steps": 50, "prompts": ["a", "b"]}, indent=1).encode()
    matrix = {"read": _read_matrix, "error": fs.ForeseerError, "check": _matrix_fault, "spare": 2**25}
    return [
        Subject("plan", _saved(folder, make_plan(10, 1)), "a.plan", **plan),
        Subject(
            "plan with branches", _saved(folder, make_plan(7, 2, ("cond", "uncond"), ("tensor 2",))), "b.plan", **plan
        ),
        Subject("kernel", _saved(folder, make_kernel(6, 3)), "a.kernel", **kernel),
        Subject("plan that mixes channels", _saved(folder, make_mixed_plan(8, 4)), "c.plan", **plan),
        Subject(
            "profile",
            _saved(folder, Profile(make_kernel(5, 2), (make_plan(5, 3),), {"model": "m"}, PICTURE)),
            "a.profile",
            Profile.load,
            ProfileError,
            profile_fault,
            same_profile,
            structured=True,
        ),
        Subject("kernel with branches", _saved(folder, make_kernel(4, 2, ("a", "b"))), "b.kernel", **kernel),
        Subject(
            "cell",
            (folder / "cell.json").read_bytes(),
            "c.json",
            lambda path: _taken(ResultStore(path.parent).read(path.name)),
            DamagedError,
            lambda found: "" if isinstance(found, dict) else "cell",
            lambda one, other: one == other,
        ),
        Subject(
            "cell's samples",
            (folder / "cell.safetensors").read_bytes(),
            "c.safetensors",
            lambda path: _taken(ResultStore(path.parent).read_arrays(path.name)),
            DamagedError,
            lambda found: "" if set(found) == {"sample", "10"} else "samples",
            _same_arrays,
        ),
        Subject("L2P's text", triangle, "l2p.txt", **matrix),
        Subject("L2P's text in brackets", brackets, "l2p.json", **matrix),
        Subject("prompts", prompts, "prompts.txt", read_prompts, PipelineError, _prompts_fault),
        Subject(
            "sampling.json", options, "sampling.json", lambda path: sampling(path.parent), ZooError, _sampling_fault
        ),
    ]


def make_large(folder: Path) -> list[Subject]:
    """Files of a megabyte or two, large enough to measure memory above Python's own use."""
    plan, kernel = make_subjects(folder)[0], make_subjects(folder)[2]
    plan.name, plan.content, plan.spare = "large plan", _saved(folder, make_plan(400, 3)), 2**16
    kernel.name, kernel.content, kernel.spare = "large kernel", _saved(folder, make_kernel(120, 10)), 2**16
    return [plan, kernel]
