"""The form of a feature's tensors: what must stay alike from step to step for rows to weigh them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor

Form = tuple[torch.Size, torch.dtype, torch.device]
Layout = list[Form]
NOT_NEEDED = torch.Size([0])  # shape of the tensor for a part that no later row reads

_SHAPE_OF = attrgetter("shape")  # no Python frame for each tensor: forecasts ask


def layout_of(tensors: Sequence[Tensor]) -> Layout:
    """Shape, dtype and device of each tensor."""
    return [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


def is_not_needed(tensors: Sequence[Tensor]) -> bool:
    """Whether one of the tensors is of a part that no later row reads."""
    return NOT_NEEDED in map(_SHAPE_OF, tensors)


def same_layout(old: Layout, new: Layout) -> bool:
    """Whether two features have one layout; a part that either of them does not need has any shape."""
    return old == new or (len(old) == len(new) and all(map(_alike, old, new)))


def joined(old: Layout, new: Layout) -> Layout:
    """``new``, with the forms of ``old`` for the parts that are not needed now; ``old`` is empty at first."""
    if len(old) != len(new):
        return new
    return [before if now[0] == NOT_NEEDED else now for before, now in zip(old, new, strict=True)]


def _alike(old: Form, new: Form) -> bool:
    return old == new or (old[1:] == new[1:] and NOT_NEEDED in (old[0], new[0]))
