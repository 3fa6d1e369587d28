"""What a refinement keeps on disk, so that the same call resumes where it was interrupted."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from foreseer.calibration.gauss_newton import Descent, ErrorMoments
from foreseer.calibration.identity import fingerprint
from foreseer.calibration.references import REMEDY
from foreseer.errors import CalibrationError, PlanFileError
from foreseer.files import Artifact, read_json, read_names, reason
from foreseer.plan import Plan
from foreseer.plan.file import digest_of

REFINE_FILE = Artifact(
    "refinement",
    version=1,
    arrays={
        "errors": (np.float64, "E"),
        "gradient": (np.float64, "N"),
        "curvature": (np.float64, "N N"),
        "grams": (np.float64, "B T T"),
    },
    optional=("gradient", "curvature", "grams"),
    metadata=("identity", "plan", "descent", "samples", "branches"),
    error=CalibrationError,
    most_bytes=2**30,
    remedy=REMEDY,
)


@dataclass(frozen=True, eq=False)
class RefineState:
    """A refinement between two prompts.

    Attributes:
        plan: with the rows so far.
        descent: where the minimisation stands.
        before: held-out error of the first plan, root mean square.
        moments: of the prompts of an unfinished iteration; ``None`` between iterations.
        grams: by branch, those from which the unfinished iteration's directions come.
    """

    plan: Plan
    descent: Descent
    before: float
    moments: ErrorMoments | None = None
    grams: dict[str, np.ndarray] = field(default_factory=dict)

    def stopped(self, reason: str) -> RefineState:
        """The same, ended for ``reason``."""
        return replace(self, descent=replace(self.descent, stopped=reason))


class RefineCheckpoint:
    """Two files of a folder: the plan so far, and the state of its refinement.

    Args:
        folder: ``None`` keeps nothing.
        identity: text that says which refinement it is.
    """

    def __init__(self, folder: Path | None, identity: str) -> None:
        self._identity = identity
        self._path = folder / f"refine-{fingerprint(identity)}.safetensors" if folder is not None else None

    def save(self, state: RefineState) -> None:
        """Write ``state``; the plan's file comes first, under a name of its content.

        Raises:
            CalibrationError: a file cannot be written.
        """
        if self._path is None:
            return
        path = self._plan_path(digest_of(state.plan)[:16])
        arrays = {"errors": np.array([state.descent.error, state.descent.damping, state.before])}
        moments, samples = state.moments, 0
        if moments is not None:
            samples = moments.samples
            arrays |= {"gradient": moments.gradient, "curvature": moments.curvature}
            arrays |= {"grams": np.stack(list(state.grams.values()))}
            arrays["errors"] = np.append(arrays["errors"], moments.square)
        metadata = {
            "identity": self._identity,
            "plan": path.name,
            "descent": json.dumps(asdict(state.descent)),
            "samples": str(samples),
            "branches": json.dumps(list(state.grams)),
        }
        try:
            if not path.is_file():
                state.plan.save(path)
        except PlanFileError as error:
            raise CalibrationError(str(error)) from error
        REFINE_FILE.save(self._path, arrays, metadata)
        for other in self._path.parent.glob(f"{self._path.stem}-*.plan.safetensors"):
            if other != path:
                other.unlink(missing_ok=True)

    def load(self, plan: Plan) -> RefineState | None:
        """The state that was kept of this refinement of ``plan``; ``None`` where nothing was.

        Raises:
            CalibrationError: a file is damaged.
        """
        if self._path is None or not self._path.is_file():
            return None
        arrays, metadata = REFINE_FILE.load(self._path)
        if metadata["identity"] != self._identity:
            return None
        try:
            return self._state(arrays, metadata, plan)
        except (ValueError, TypeError, PlanFileError) as error:
            raise CalibrationError(f"{self._path} is damaged or no refinement: {reason(error)}. {REMEDY}") from error

    def _state(self, arrays: dict[str, np.ndarray], metadata: dict[str, str], plan: Plan) -> RefineState:
        found = Plan.load(self._plan_path(metadata["plan"].split(".")[0].rpartition("-")[2]))
        if (found.computed_steps, found.grid) != (plan.computed_steps, plan.grid):
            raise ValueError("its plan is another")
        words = read_json(metadata["descent"])
        descent = Descent(**words) if isinstance(words, dict) else Descent(math.nan)
        if not isinstance(descent.iterations, int) or not isinstance(descent.stopped, str):
            raise ValueError("its descent is none")
        errors, samples = arrays["errors"], int(metadata["samples"])
        descent = replace(descent, error=float(errors[0]), damping=float(errors[1]))
        if "curvature" not in arrays:
            return RefineState(found, descent, float(errors[2]))
        moments = ErrorMoments(arrays["curvature"].copy(), arrays["gradient"].copy(), float(errors[3]), samples)
        grams = dict(zip(read_names(metadata["branches"]), arrays["grams"], strict=True))
        return RefineState(found, descent, float(errors[2]), moments, grams)

    def _plan_path(self, digits: str) -> Path:
        assert self._path is not None
        return self._path.with_name(f"{self._path.stem}-{digits}.plan.safetensors")
