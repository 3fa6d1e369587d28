"""What Foreseer raises and warns: every message names what was received, what was expected and the remedy."""


class ForeseerError(Exception):
    """Base of every error that Foreseer raises on purpose."""


class GridError(ForeseerError, ValueError):
    """The noise levels are not those of one run: unsorted, repeated, empty or not finite."""


class ScheduleError(ForeseerError, ValueError):
    """A rule cannot say which steps compute, or says it of steps that do not exist."""


class ForecastError(ForeseerError, ValueError):
    """A forecaster was given an option, or steps, that it has no row for."""


class PlanError(ForeseerError, ValueError):
    """Grid, steps and rows do not make a plan, or the plan is for another grid."""


class PlanFileError(ForeseerError, ValueError):
    """A file is damaged, is no plan, or was written by a later version."""


class AttachError(ForeseerError, RuntimeError):
    """A model cannot be attached to: already attached, own cache enabled, no denoiser, no seam."""


class FailedOpenError(ForeseerError, RuntimeError):
    """Raised in strict mode where a step meant to be forecast would have been computed."""


class ForeseerWarning(UserWarning):
    """Steps meant to be forecast were computed; said once a handle, with the reason."""


class ForeseerDeprecationWarning(FutureWarning):
    """A name is deprecated: the message says since when, what replaces it, and the release that removes it.

    Deprecated names work for two further minor releases. Python shows this warning by default, in scripts too.
    """


def in_one_line(error: BaseException) -> str:
    r"""What an exception says on its first line, after its kind where it is not one of Foreseer's own.

    >>> in_one_line(RuntimeError("out of memory\nat layer 3"))
    'RuntimeError: out of memory'
    """
    lines = str(error).strip().splitlines()
    words = lines[0] if lines else "no reason given"
    return words if type(error).__module__.startswith("foreseer") else f"{type(error).__name__}: {words}"
