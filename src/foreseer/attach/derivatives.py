"""Whether a call is differentiated, or mapped over: then its output must be the network's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

GRADIENTS = "gradients are enabled: sample under torch.no_grad()"

TRANSFORMED = "a transform of torch.func or forward-mode differentiation is at work"


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` (vmap, jvp, ...) or forward-mode differentiation is at work.

    What is computed there stands for other numbers than it shows, and must not outlive the transform.
    """
    return getattr(forward_ad, "_current_level", -1) >= 0 or peek_interpreter_stack() is not None


def asks_for_gradients(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether any tensor among the arguments wants a gradient of what is computed from it."""
    return torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in (*args, *kwargs.values())
    )
