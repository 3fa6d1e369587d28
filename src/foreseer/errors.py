"""Errors and warnings: every message states what was received, what was expected and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

# Packages that the core works without, and the extra that installs each.
EXTRAS = {
    **dict.fromkeys(
        ("torch", "diffusers", "transformers", "accelerate", "tokenizers", "sentencepiece", "huggingface_hub", "PIL"),
        "diffusers",
    ),
    **dict.fromkeys(("matplotlib", "jinja2", "skimage"), "report"),
}


class ForeseerError(Exception):
    """Base of every error that Foreseer raises on purpose."""


class GridError(ForeseerError, ValueError):
    """Noise levels do not form a grid: empty, not finite, or not strictly decreasing."""


class KernelError(ForeseerError, ValueError):
    """Second moments are inconsistent, or a grid lies outside the kernel's noise levels."""


class ScheduleError(ForeseerError, ValueError):
    """A schedule cannot choose the computed steps, or names steps that the run does not have."""


class ForecastError(ForeseerError, ValueError):
    """A forecaster has no row for the given steps, or an option is out of range."""


class PlanError(ForeseerError, ValueError):
    """Grid, steps and rows do not form a plan, or the plan is for another grid."""


class PlanFileError(ForeseerError, ValueError):
    """A plan file is damaged, of another kind, or written by a later version."""


class AttachError(ForeseerError, RuntimeError):
    """A model cannot be attached to: attached already, own cache enabled, no denoiser or no head."""


class FailedOpenError(ForeseerError, RuntimeError):
    """In strict mode, a step that should have been forecast would have been computed."""


class CalibrationError(ForeseerError, ValueError):
    """No prompts, runs that do not belong together, or workers whose pipelines differ."""


class ScaleError(ForeseerError, RuntimeError):
    """Workers cannot be started or used: no cluster, other versions, workers that keep dying."""


class MissingPackageError(ForeseerError, ModuleNotFoundError):
    """An optional package is not installed; the message names the extra that installs it."""


class ForeseerWarning(UserWarning):
    """Steps that should have been forecast were computed; issued once per handle, with the reason."""


class ForeseerDeprecationWarning(FutureWarning):
    """A name is deprecated; the message states the replacement and the release that removes it.

    Deprecated names work for two further minor releases. Python shows this warning by default, in scripts too.
    """


@contextmanager
def naming_the_extra() -> Iterator[None]:
    """Name the extra to install where an import in this block finds an optional package missing.

    Raises:
        MissingPackageError: a package of ``EXTRAS`` is not installed.

    >>> with naming_the_extra():
    ...     raise ModuleNotFoundError("No module named 'torch'", name="torch")
    Traceback (most recent call last):
    foreseer.errors.MissingPackageError: torch is not installed: pip install 'foreseer[diffusers]'.
    """
    try:
        yield
    except MissingPackageError:
        raise
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        message = f"{error.name} is not installed: pip install 'foreseer[{extra}]'."
        raise MissingPackageError(message, name=error.name) from error


def in_one_line(error: BaseException) -> str:
    r"""Return the first line of an exception's message, after its type unless it is Foreseer's own.

    >>> in_one_line(RuntimeError("out of memory\nat layer 3"))
    'RuntimeError: out of memory'
    """
    lines = str(error).strip().splitlines()
    message = lines[0] if lines else "no reason given"
    return message if type(error).__module__.startswith("foreseer") else f"{type(error).__name__}: {message}"
