"""Assignment of calls to branches, by a fingerprint of each call and the earlier calls of each branch."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _get_dispatch_mode, _TorchDispatchModeKey  # pyright: ignore[reportAttributeAccessIssue]
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

Place = tuple[Any, ...] | str | int
Seen = tuple["weakref.ref[Tensor]", int | None]  # a tensor, and its version counter

GRADIENTS = "gradients are enabled: sample under torch.no_grad()"
TRANSFORMED = "a torch.func transform, forward-mode differentiation, a tracer or fake tensors are active"
_SUBSAMPLE = 1024  # elements
_WATCHED = 4  # first calls of a branch: if prompts alternate, an earlier tensor returns within them
_PLAIN = (str, bool, type(None), torch.dtype)


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` (vmap, jvp, ...), a tracer or a fake tensor mode is active.

    Tensors computed there are wrappers that must not outlive it, or hold no numbers.
    """
    return (
        getattr(forward_ad, "_current_level", -1) >= 0
        or peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or _get_dispatch_mode(_TorchDispatchModeKey.FAKE) is not None
        or _get_dispatch_mode(_TorchDispatchModeKey.PROXY) is not None
    )


class CallInputs:
    """Fingerprint of one call: the layout of its arguments, and which tensors it was given.

    Attributes:
        layout: shapes, dtypes, devices, plain values and nesting; equal for calls of the same kind.
        tensors: by place, the tensors other than the sample and the timestep.
        sample: the first tensor, ``None`` if there is none.
    """

    __slots__ = ("layout", "sample", "tensors")

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], timestep: Any = None) -> None:
        layout: list[Any] = []
        tensors: dict[Place, Tensor] = {}
        sample = None
        pending: list[tuple[Place, Any]] = [*enumerate(args), *kwargs.items()]
        for place, value in pending:  # grows while it is walked
            if isinstance(value, Tensor):
                layout += (place, value.shape, value.dtype, value.device)
                if value is timestep:
                    continue
                if sample is None:
                    sample = value
                else:
                    tensors[place] = value
            elif isinstance(value, _PLAIN):
                layout += (place, value)
            elif isinstance(value, tuple | list):
                pending += zip(zip(repeat(place), count()), value, strict=False)
            elif isinstance(value, Mapping):
                pending += zip(zip(repeat(place), value), value.values(), strict=False)
        self.layout = tuple(layout)
        self.tensors = tensors
        self.sample = sample

    def seen(self) -> dict[Place, Seen]:
        """The tensors by weak reference, so that nothing is kept alive."""
        return {place: (weakref.ref(tensor), _version(tensor)) for place, tensor in self.tensors.items()}


@dataclass
class ArgumentMemory:
    """Arguments that a branch found constant or rebuilt before it was restarted in the same run.

    Attributes:
        constant: places that held the same tensor at every call.
        rebuilt: places that held a new or modified tensor at every call.
    """

    constant: set[Place] = field(default_factory=set)
    rebuilt: set[Place] = field(default_factory=set)

    def note_rebuilt(self, place: Place) -> None:
        """Expect another tensor at ``place`` in later calls."""
        self.rebuilt.add(place)
        self.constant.discard(place)


class ConstantArguments:
    """Arguments that identify the calls of one branch during one generation.

    Arguments that are identical on calls 1 and 2 are constants; a changed constant restarts the branch. Arguments
    rebuilt on every call (masks, indices, another modality's state) are ignored. A tensor written to in place counts
    as changed. Values are never read, so that nothing waits for a device.

    Args:
        inputs: the branch's first call.
        memory: the findings of earlier calls of the run; never of earlier runs, on which no run may depend.
    """

    def __init__(self, inputs: CallInputs, memory: ArgumentMemory) -> None:
        self.memory = memory
        self._layout = inputs.layout
        self._seen = inputs.seen()
        self._earlier: list[dict[Place, Seen]] = []  # tensors of the first calls at places that change
        self._constants: list[tuple[Place, weakref.ref[Tensor], int | None]] | None = None
        self._calls = 1
        self.settled = False  # whether the classification of the arguments is final
        self._subsample = _subsample(inputs.sample)

    def score(self, inputs: CallInputs, *, other_mode: bool = False) -> int:
        """Number of identical arguments if ``inputs`` may be the branch's next call, else -1.

        Args:
            inputs: of the call.
            other_mode: whether it may be the second call with another string argument, which networks that keep keys
                and values of the first call receive.
        """
        if (inputs.layout != self._layout) != other_mode or (other_mode and not self._switches_mode(inputs)):
            return -1
        tensors = inputs.tensors
        if self._constants is not None:
            for place, reference, version in self._constants:
                tensor = tensors.get(place)
                if tensor is None or reference() is not tensor or _version(tensor) != version:
                    return -1
            if self._earlier and self._repeats_earlier_call(tensors):
                return -1
            return len(self._constants)
        same = 0
        for place, tensor in tensors.items():
            reference, version = self._seen.get(place, (_gone, None))
            if reference() is tensor and _version(tensor) == version:
                same += 1
            elif place not in self.memory.rebuilt and (place in self.memory.constant or reference() is tensor):
                self.memory.note_rebuilt(place)  # so that the restarted branch expects it
                return -1
        return same

    def _switches_mode(self, inputs: CallInputs) -> bool:
        if self._calls > 1 or len(inputs.layout) != len(self._layout):
            return False
        differing = [pair for pair in zip(self._layout, inputs.layout, strict=True) if pair[0] != pair[1]]
        return all(isinstance(part, str) for pair in differing for part in pair)

    def advance(self, inputs: CallInputs, subsample: bool) -> None:
        """Record ``inputs`` as the branch's next call; ``subsample`` it if branches may be confused."""
        self._layout = inputs.layout
        if self._calls == 1:
            self._constants = [
                (place, reference, version)
                for place, (reference, version) in self._seen.items()
                if reference() is not None
                and inputs.tensors.get(place) is reference()
                and _version(inputs.tensors[place]) == version
            ]
            same = {place for place, _, _ in self._constants}
            self.memory.constant |= same
            self.memory.rebuilt -= same
            changing = self._seen.keys() - same
            self._earlier = [{place: self._seen[place] for place in changing}] if changing else []
        if self._earlier:
            seen = inputs.seen()
            self._earlier.append({place: seen[place] for place in self._earlier[0] if place in seen})
            if len(self._earlier) == _WATCHED:
                for place in self._earlier[0]:
                    self.memory.note_rebuilt(place)
                self._earlier = []
        self._calls += 1
        self.settled = not self._earlier
        if subsample:
            self._subsample = _subsample(inputs.sample)

    def cosine_similarity(self, inputs: CallInputs) -> float:
        """Cosine of the angle between this call's sample and the branch's last one; waits for their device."""
        now, last = _subsample(inputs.sample), self._subsample
        if now is None or last is None or now.shape != last.shape:
            return 0.0
        cosine = float(torch.nn.functional.cosine_similarity(now, last, dim=0))
        return cosine if math.isfinite(cosine) else 0.0

    def _repeats_earlier_call(self, tensors: Mapping[Place, Tensor]) -> bool:
        """Return whether a changing place holds a tensor of an earlier call: it is constant per generation."""
        for seen in self._earlier:
            for place, (reference, version) in seen.items():
                tensor = tensors.get(place)
                repeated = tensor is not None and reference() is tensor and _version(tensor) == version
                if repeated and place not in self.memory.rebuilt:
                    self.memory.constant.add(place)
                    return True
        return False


def _gone() -> None:
    """Reference to no tensor."""


def _version(tensor: Tensor) -> int | None:
    """Return a tensor's version counter; ``None`` for inference tensors, which have none."""
    return None if tensor.is_inference() else tensor._version


def _subsample(sample: Tensor | None) -> Tensor | None:
    """Return a few elements of a sample, or ``None`` unless it is a plain strided tensor."""
    if type(sample) not in (Tensor, nn.Parameter) or not sample.numel() or sample.layout != torch.strided:  # pyright: ignore[reportOptionalMemberAccess]
        return None
    flat = sample.detach().reshape(-1)  # pyright: ignore[reportOptionalMemberAccess]
    return flat[:: max(1, flat.numel() // _SUBSAMPLE)].clone()
