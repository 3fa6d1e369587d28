"""Why a site cannot serve a call."""

from __future__ import annotations

from typing import Any


class SiteError(RuntimeError):
    """The site cannot serve this call; the whole network must run."""


class NoFeatureError(RuntimeError):
    """The network ran, but its feature could not be taken.

    Attributes:
        output: what the network returned.
        lasting: whether later runs will meet the same reason.
    """

    def __init__(self, reason: str, output: Any, lasting: bool = True) -> None:
        super().__init__(reason)
        self.output = output
        self.lasting = lasting
