"""The model card of a profile on the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreseer.methods.learned import learned

if TYPE_CHECKING:
    from foreseer.methods.profile import Profile

BUDGETS = (14, 11, 9, 7, 5)
FILE_NAME = "profile.safetensors"
THUMBNAIL_NAME = "thumbnail.png"


def card_of(profile: Profile, repository: str) -> str:
    """Return the card: what the profile was learned on, its pictures and expected errors."""
    kernel = profile.kernel
    model = profile.provenance.get("model", kernel.provenance.get("model", "unknown"))
    hub_id = model.rpartition(" ")[2]  # after the pipeline's class
    base = f"base_model: {hub_id}\n" if "/" in hub_id else ""
    header = ["| computed steps | kernel rows | refined plan |", "|---|---|---|"]
    table = "\n".join(header + [f"| {nfe} of {of} | {own} | {plan} |" for nfe, of, own, plan in _frontier(profile)])
    return (
        f"---\nlibrary_name: foreseer\ntags:\n- foreseer\n- diffusion\n{base}---\n\n"
        f"# Foreseer profile of {model}\n\n"
        f"{_pictures(profile)}"
        f"Learned from {kernel.prompts} prompts at {len(kernel.grid)} steps. Expected relative "
        f"error of the final latent:\n\n{table}\n\n"
        "```python\nimport foreseer as fs\n\n"
        f'fs.accelerate(pipe, "{repository}", quality="high")\n```\n'
    )


def _pictures(profile: Profile) -> str:
    """The row of pictures, if the profile has one."""
    if profile.thumbnail is None:
        return ""
    shown = ", then with ".join(["every step computed", *(f"{nfe} steps" for nfe in profile.budgets)])
    return f"![The same picture with {shown}]({THUMBNAIL_NAME})\n\nOne prompt held out, with {shown}.\n\n"


def _frontier(profile: Profile) -> list[tuple[int, int, str, str]]:
    """Computed steps, steps, and the expected errors of kernel rows and refined plans, at usual budgets."""
    steps, grid = len(profile.kernel.grid), profile.kernel.grid
    lines = [
        (plan.nfe, len(plan.grid), "-", _decimals(plan.expected_error))
        for plan in profile.plans
        if not plan.grid.matches(grid)
    ]
    refined = {plan.nfe: plan for plan in profile.plans if plan.grid.matches(grid)}
    for nfe in sorted({*refined, *(budget for budget in BUDGETS if budget < steps)}, reverse=True):
        own = learned(profile.kernel, nfe=nfe).compile(grid).expected_error
        plan = _decimals(refined[nfe].expected_error) if nfe in refined else "-"
        lines.append((nfe, steps, _decimals(own), plan))
    return lines


def _decimals(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.4f}"
