"""Conversion of a network's output to a list of tensors and back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_HOLE = torch.empty(0)


class UnknownContainerError(TypeError):
    """A network returned something that cannot be rebuilt around forecast tensors."""


def flatten(output: Any) -> list[Tensor]:
    """Return the tensors in ``output`` in order.

    ``output`` is a tensor or NumPy array, or a nesting of tuples, lists, mappings and diffusers' output objects. Arrays
    share their memory with the tensors.
    """
    tensors: list[Tensor] = []
    _collect(output, tensors)
    return tensors


def rebuild(template: Any, tensors: Iterator[Tensor]) -> Any:
    """Return ``template`` with its tensors replaced, in order, by ``tensors``."""
    if isinstance(template, Tensor):
        return next(tensors)
    if isinstance(template, np.ndarray):
        return next(tensors).cpu().numpy()
    if isinstance(template, tuple | list):
        values = [rebuild(value, tensors) for value in template]
        return type(template)(*values) if hasattr(template, "_fields") else type(template)(values)
    if isinstance(template, Mapping):
        values = {key: rebuild(value, tensors) for key, value in template.items()}
        if not is_dataclass(template):
            return type(template)(values)  # pyright: ignore[reportCallIssue]
        # The items of an output object do not include the fields that are None.
        return type(template)(**{field.name: values.get(field.name) for field in fields(template)})
    return template


def strip(output: Any) -> Any:
    """Return ``output`` with each tensor replaced by an empty one: a template that keeps no memory alive."""
    try:
        return rebuild(output, itertools.repeat(_HOLE))
    except TypeError as error:
        raise UnknownContainerError(
            f"the network returned a {type(output).__name__}, which cannot be rebuilt"
        ) from error


def is_alike(template: Any, output: Any) -> bool:
    """Return whether ``output`` and ``template`` are both a tensor, or both a tuple of one tensor."""
    if type(output) is not tuple or type(template) is not tuple:
        return isinstance(output, Tensor) and isinstance(template, Tensor)
    return len(output) == len(template) == 1 and isinstance(output[0], Tensor) and isinstance(template[0], Tensor)


def _collect(output: Any, tensors: list[Tensor]) -> None:
    if isinstance(output, Tensor):
        tensors.append(output)
    elif isinstance(output, np.ndarray):
        tensors.append(torch.from_numpy(np.require(output, requirements=("C", "W"))))
    elif isinstance(output, tuple | list):
        for value in output:
            _collect(value, tensors)
    elif isinstance(output, Mapping):
        for value in output.values():
            _collect(value, tensors)
    elif not (output is None or isinstance(output, bool | int | float | str)):
        raise UnknownContainerError(f"the network returned a {type(output).__name__}, which cannot be rebuilt")
