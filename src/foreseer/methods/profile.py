"""The profile: what `tune` learned of one model, in one file: a kernel, and plans for several budgets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.checks import check_kind, check_provenance, check_target, one_target
from foreseer.errors import ForeseerError, PlanError, naming_the_extra
from foreseer.files import Artifact, check_png, read_json, read_strings, reason
from foreseer.forecast import Reuse
from foreseer.kernel import Kernel
from foreseer.kernel.kernel_file import decode_kernel, encode_kernel
from foreseer.methods.defaults import DEFAULT_SPEEDUP
from foreseer.methods.learned import learned
from foreseer.methods.profile_card import FILE_NAME, card_of
from foreseer.methods.quality import error_of
from foreseer.plan import FixedPlan, Plan, Policy, ScheduledPolicy
from foreseer.plan.file import decode_plan, encode_plan
from foreseer.plan.plan import ORIGIN
from foreseer.schedule import Uniform
from foreseer.schedule.base import budget_at


class ProfileError(ForeseerError, ValueError):
    """A profile's parts do not match, or its file cannot be used.

    The file is damaged, of another kind or of a later version.
    """


PROFILE_FILE = Artifact(
    "profile",
    version=2,  # 1 has no thumbnail
    arrays={"parts": (np.uint8, "N")},
    metadata=("parts", "provenance"),
    error=ProfileError,
    most_bytes=2**30,
)


@dataclass(frozen=True, eq=False)
class Profile:
    """What was learned of one model.

    Args:
        kernel: second moments of its outputs; serves any budget and any step count.
        plans: refined plans, each for its own grid and budget; used where a run matches.
        provenance: text about the model, the scheduler, the options, the prompts and the held-out figures.
        thumbnail: PNG file of a row of pictures of one held-out prompt: every step computed, then each plan, in order.

    Raises:
        ProfileError: a part has the wrong type, provenance is not text, a plan takes features at another site than
            the kernel, or the thumbnail is not a small PNG file.
    """

    kernel: Kernel
    plans: tuple[Plan, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    thumbnail: bytes | None = None

    def __post_init__(self) -> None:
        check_kind("kernel", self.kernel, Kernel, ProfileError)
        check_kind("plans", self.plans, Sequence, ProfileError)
        object.__setattr__(self, "plans", tuple(self.plans))
        object.__setattr__(self, "provenance", check_provenance(self.provenance, ProfileError))
        try:
            object.__setattr__(self, "thumbnail", None if self.thumbnail is None else check_png(self.thumbnail))
        except ValueError as error:
            raise ProfileError(f"The thumbnail cannot be used: {error}.") from error
        for plan in self.plans:
            check_kind("a plan", plan, Plan, ProfileError)
            if plan.site != self.kernel.site:
                raise ProfileError(f"A plan's site is {plan.site!r}, the kernel's {self.kernel.site!r}.")

    def policy(
        self,
        *,
        nfe: int | None = None,
        speedup: float | None = None,
        max_error: float | None = None,
        quality: str | None = None,
    ) -> Policy:
        """The best policy for a target: a refined plan on its own grid, kernel rows elsewhere.

        Args:
            nfe: number of computed steps; or
            speedup: steps divided by computed steps; or
            max_error: expected relative error of the final latent; or
            quality: a level of `foreseer.methods.quality`. Without a target: the refined plan with the most computed
                steps, and its speedup on other grids; without plans the default speedup.

        Raises:
            PlanError: several targets were given, or one is out of range.
            ScheduleError: the target cannot be met.
        """
        targets = {"nfe": nfe, "speedup": speedup, "max_error": max_error, "quality": quality}
        target = one_target(PlanError, targets)
        check_target(target, PlanError)
        if quality is not None:
            max_error = error_of(quality)
            if max_error is None:
                return ScheduledPolicy(Uniform(interval=1), Reuse(), self.kernel.site)
        if max_error is not None:
            good = [plan for plan in self.plans if plan.expected_error is not None and plan.expected_error <= max_error]
            return self._with_kernel(min(good, key=lambda plan: plan.nfe, default=None), max_error=max_error)
        if nfe is not None:
            return self._with_kernel(next((plan for plan in self.plans if plan.nfe == nfe), None), nfe=nfe)
        if speedup is not None:
            plan = next((plan for plan in self.plans if plan.nfe == budget_at(len(plan.grid), None, speedup)), None)
            return self._with_kernel(plan, speedup=speedup)
        careful = max(self.plans, key=lambda plan: plan.nfe, default=None)
        default = DEFAULT_SPEEDUP if careful is None else len(careful.grid) / careful.nfe
        return self._with_kernel(careful, speedup=default)

    def _with_kernel(self, plan: Plan | None, **target: Any) -> Policy:
        """``plan`` on its own grid if there is one, kernel rows for the target elsewhere."""
        by_kernel = learned(self.kernel, **target)
        if plan is None:
            return by_kernel
        origin = {name: self.kernel.provenance[name] for name in ORIGIN if name in self.kernel.provenance}
        if "scheduler" in origin and "scheduler" not in plan.provenance:  # a plan made before plans named it
            plan = replace(plan, provenance={**origin, **plan.provenance})
        return FixedPlan(plan, by_kernel)

    @property
    def budgets(self) -> tuple[int, ...]:
        """The numbers of computed steps that have a refined plan, descending."""
        return tuple(sorted({plan.nfe for plan in self.plans}, reverse=True))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file.

        Raises:
            ProfileError: the file cannot be written.
        """
        parts = [("kernel", encode_kernel(self.kernel)), *(("plan", encode_plan(plan)) for plan in self.plans)]
        parts += [("thumbnail", self.thumbnail)] if self.thumbnail is not None else []
        content = np.frombuffer(b"".join(data for _, data in parts), dtype=np.uint8)
        metadata = {
            "parts": json.dumps([[kind, len(data)] for kind, data in parts]),
            "provenance": json.dumps(dict(self.provenance), sort_keys=True),
        }
        PROFILE_FILE.save(path, {"parts": content}, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read a file that :meth:`save` wrote.

        Raises:
            ProfileError: the file is missing, damaged, of another kind, or of a later format version.
        """
        arrays, metadata = PROFILE_FILE.load(path)
        name = os.fspath(path)
        try:
            parts = _split(arrays["parts"].tobytes(), read_json(metadata["parts"]))
            kernels = [decode_kernel(data, Kernel, f"the kernel in {name}") for kind, data in parts if kind == "kernel"]
            plans = [decode_plan(data, Plan, f"a plan in {name}") for kind, data in parts if kind == "plan"]
            pictures = [data for kind, data in parts if kind == "thumbnail"]
            if len(kernels) != 1 or len(pictures) > 1:
                raise ValueError(f"it holds {len(kernels)} kernels and {len(pictures)} thumbnails, expected 1 of each")
            return cls(kernels[0], tuple(plans), read_strings(metadata["provenance"]), *pictures)
        except (ForeseerError, ValueError) as error:
            raise ProfileError(f"{name} does not hold a valid profile: {reason(error)}.") from error

    @classmethod
    def from_pretrained(cls, repository: str, *, revision: str | None = None, **options: Any) -> Profile:
        """Load a profile from the Hugging Face Hub, or from a local folder.

        Args:
            repository: "user/name" on the Hub, or a folder that holds ``profile.safetensors``.
            revision: branch, tag or commit on the Hub.
            options: of ``huggingface_hub.ModelHubMixin.from_pretrained`` (token, cache_dir, local_files_only, ...).

        Raises:
            ProfileError: the file cannot be downloaded, or is not a profile.
        """
        if Path(repository).is_dir():
            return cls.load(Path(repository) / FILE_NAME)
        if not HUB_ID.fullmatch(repository):
            raise ProfileError(f"{repository!r} is not the name of a repository: expected OWNER/NAME, or a folder.")
        with naming_the_extra():
            from foreseer.methods.hub import HubProfile

        try:
            file = HubProfile.from_pretrained(repository, revision=revision, **options).file
        except Exception as error:  # the Hub's client raises many kinds
            at = f" at {revision!r}" if revision is not None else ""
            raise ProfileError(f"Cannot download {FILE_NAME} of {repository!r}{at}: {reason(error)}.") from error
        return cls.load(file)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Upload the profile and its card to the Hugging Face Hub; return the commit's address.

        Args:
            repository: "user/name"; created if it does not exist.
            options: of ``huggingface_hub.ModelHubMixin.push_to_hub`` (branch, private, token, create_pr, ...).

        Raises:
            ProfileError: the upload failed.
        """
        with naming_the_extra():
            from foreseer.methods.hub import HubProfile

        try:
            defaults = {"commit_message": "Upload the Foreseer profile", "model_card_kwargs": {"repo_id": repository}}
            return str(HubProfile.of(self).push_to_hub(repository, **{**defaults, **options}))
        except Exception as error:
            raise ProfileError(f"Cannot upload the profile to {repository!r}: {reason(error)}.") from error

    def card(self, repository: str = "OWNER/NAME") -> str:
        """Return the model card: what the profile was learned on, its pictures and expected errors.

        Args:
            repository: "user/name" on the Hub.
        """
        return card_of(self, repository)

    def _repr_png_(self) -> bytes | None:
        """The row of pictures, as notebooks show it."""
        return self.thumbnail

    def __repr__(self) -> str:
        return (
            f"Profile(<kernel of {self.kernel.prompts} prompts, {len(self.kernel.grid)} steps>, budgets {self.budgets})"
        )


KINDS = ("kernel", "plan", "thumbnail")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}")


def _split(content: bytes, parts: Any) -> list[tuple[str, bytes]]:
    """The parts by kind.

    Raises:
        ValueError: the list of parts does not describe the content.
    """
    if not isinstance(parts, list) or not all(isinstance(part, list) and len(part) == 2 for part in parts):
        raise ValueError("its list of parts is malformed")
    pieces, position = [], 0
    for kind, size in parts:
        if kind not in KINDS or type(size) is not int or size < 0:
            raise ValueError("its list of parts is malformed")
        pieces.append((kind, content[position : position + size]))
        position += size
    if position != len(content):
        raise ValueError("its parts have other sizes than listed")
    return pieces
