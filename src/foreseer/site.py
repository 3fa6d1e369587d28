"""Sites: where in the network a feature is taken.

A site is written as text: its name, followed by its options (JSON values) if it has any. Policies, plans and kernels
store the text; ``read_site`` converts it to a site object.
"""

from __future__ import annotations

import dataclasses
import json
import re
from abc import ABC
from typing import Any, ClassVar

from foreseer.checks import check_count, check_flags, check_number
from foreseer.errors import PlanError


@dataclasses.dataclass(frozen=True)
class Site(ABC):
    """A place where features are taken; subclasses are frozen dataclasses of options."""

    name: ClassVar[str]

    def __str__(self) -> str:
        options = [
            f"{field.name}={json.dumps(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(options)})" if options else self.name


@dataclasses.dataclass(frozen=True)
class Output(Site):
    """The network's output; the whole network is skipped."""

    name: ClassVar[str] = "output"


@dataclasses.dataclass(frozen=True)
class LastBlock(Site):
    """The last block's output; the blocks are skipped, the head runs with the current timestep."""

    name: ClassVar[str] = "last_block"


@dataclasses.dataclass(frozen=True)
class Modules(Site):
    """The outputs of all attention and MLP modules inside the blocks.

    Norms, modulation and residual additions run at each step.
    """

    name: ClassVar[str] = "modules"


@dataclasses.dataclass(frozen=True)
class Tokens(Site):
    """The site ``modules`` with some tokens recomputed at skipped steps (ToCa, arXiv 2410.05317).

    At a skipped step a share of the tokens goes through the MLPs; attention is forecast. Recomputed rows stay in use
    until the next computed step.

    Args:
        share: share of the tokens to recompute, more than 0 and at most 1.
        alternate: recompute at every second skipped step only and forecast the others entirely (DuCa, arXiv
            2412.18911).
        age: added to a token's score for each step since its row was computed, in mean influences.
        spread: added to the score of the best of each four neighbouring tokens.

    Raises:
        PlanError: an option is out of range.
    """

    name: ClassVar[str] = "tokens"
    share: float = 0.1
    alternate: bool = False
    age: float = 0.25
    spread: float = 0.4

    def __post_init__(self) -> None:
        check_number("share", self.share, PlanError, most=1)
        if not self.share:
            raise PlanError("share is 0; with no token recomputed the site is 'modules'.")
        check_flags(PlanError, alternate=self.alternate)
        check_number("age", self.age, PlanError)
        check_number("spread", self.spread, PlanError)


@dataclasses.dataclass(frozen=True)
class Residual(Site):
    """The residual of a range of blocks: its output minus its input.

    The other blocks run, and the forecast residual is added in place of the range. Over all blocks it is TeaCache's
    residual; with rear blocks early and front blocks late it is Delta-DiT's (arXiv 2406.01125).

    Args:
        blocks: start and end of the range, as shares of the blocks in call order.
        late: range from ``boundary`` on; by default the same.
        boundary: share of the run's steps after which the late range is skipped.
        kept: number of first blocks that run at every step.

    Raises:
        PlanError: a share is out of range, or a range is empty.
    """

    name: ClassVar[str] = "residual"
    blocks: tuple[float, float] = (0.0, 1.0)
    late: tuple[float, float] | None = None
    boundary: float = 0.5
    kept: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", _checked_range("blocks", self.blocks))
        if self.late is not None:
            object.__setattr__(self, "late", _checked_range("late", self.late))
        check_number("boundary", self.boundary, PlanError, most=1)
        check_count("kept", self.kept, PlanError)


def _checked_range(name: str, given: Any) -> tuple[float, float]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise PlanError(f"{name} is {given!r}; expected two shares of the blocks, from and to.")
    for share in given:
        check_number(name, share, PlanError, most=1)
    if not given[0] < given[1]:
        raise PlanError(f"{name} is {given!r}; the range must end after it begins.")
    return float(given[0]), float(given[1])


KINDS: dict[str, type[Site]] = {kind.name: kind for kind in (Output, LastBlock, Modules, Tokens, Residual)}
SITES: tuple[str, ...] = tuple(KINDS)
_FORMER = {"change": "residual"}  # names in files of earlier versions

_WORDS = re.compile(r"\s*([a-z_]+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_OPTION = re.compile(r"\s*([a-z_]+)\s*=\s*")


def read_site(site: str | Site) -> Site:
    """The site that ``site`` names.

    Raises:
        PlanError: there is none of that name, or it has no such option.

    >>> read_site("last_block")
    LastBlock()
    """
    if isinstance(site, Site):
        return site
    matched = _WORDS.fullmatch(site) if isinstance(site, str) else None
    kind = KINDS.get(_FORMER.get(matched[1], matched[1])) if matched else None
    if matched is None or kind is None:
        raise PlanError(f"Unknown site {site!r}: expected one of {', '.join(KINDS)}.")
    options = _read_options(site, matched[2] or "")
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = [key for key in options if key not in known]
    if unknown:
        takes = f"takes {', '.join(known)}" if known else "takes no options"
        raise PlanError(f"The site {kind.name!r} has no option {unknown[0]!r}; it {takes}.")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})


def _read_options(site: Any, words: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    position = 0
    decoder = json.JSONDecoder()
    while words[position:].strip():
        key = _OPTION.match(words, position)
        try:
            if key is None or key[1] in options:
                raise ValueError("expected key=value, each key once")
            options[key[1]], position = decoder.raw_decode(words, key.end())
            rest = words[position:].lstrip()
            if rest and not rest.startswith(","):
                raise ValueError("expected a comma")
        except (ValueError, RecursionError) as error:
            raise PlanError(f"Cannot read the options of the site {site!r}: {error}.") from error
        position = len(words) - len(rest) + 1 if rest else len(words)
    return options
