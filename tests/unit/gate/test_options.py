"""Options of gates are checked when they are made."""

from __future__ import annotations

from typing import Any

import pytest

from foreseer.gate import FirstBlock, GateError, TeaCache


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (TeaCache, {"threshold": -1.0}),
        (TeaCache, {"threshold": float("nan")}),
        (TeaCache, {"coefficients": "unheard-of"}),
        (TeaCache, {"coefficients": ()}),
        (TeaCache, {"coefficients": (1.0, float("inf"))}),
        (FirstBlock, {"threshold": "0.1"}),
    ],
)
def test_options_of_gates_are_checked(kind: Any, options: dict[str, Any], as_users_call: None) -> None:
    with pytest.raises(GateError, match=r"threshold|coefficient"):
        kind(**options)
