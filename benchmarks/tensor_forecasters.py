"""Forecasters that fit and predict on feature tensors, and ours, behind one pair of calls.

Spectrum and L2P are written as their papers describe them, tensor by tensor: once plainly, with the features in a list
that is stacked when needed, and once with everything that can be saved saved. The two Taylor forecasters are those of
the released packages.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

import foreseer as fs
from foreseer.plan import Policy
from foreseer.runtime import BranchRun

STEPS = 50


class Forecasting(ABC):
    """One run of a forecaster."""

    @abstractmethod
    def computed(self, step: int, feature: Tensor) -> None:
        """Take note of what the network gave."""

    @abstractmethod
    def forecast(self, step: int) -> Tensor:
        """The feature of a skipped step."""


class Ours(Forecasting):
    """A compiled plan on the store: the checks and the weighted sum that every accelerated run does."""

    def __init__(self, policy: Policy) -> None:
        self.run = BranchRun(policy.compile(fs.Grid.uniform(STEPS)).of_branch(""), 0)

    def computed(self, step: int, feature: Tensor) -> None:
        """Keep it if a later row needs it."""
        self.run.computed(step, [feature])

    def forecast(self, step: int) -> Tensor:
        """Look whether the sources can be trusted, and sum."""
        reason = self.run.why_not(step)
        assert reason is None, reason
        return self.run.forecast(step)[0]


class DiffusersTaylor(Forecasting):
    """The state of diffusers' TaylorSeer cache, at one module."""

    def __init__(self, order: int) -> None:
        from diffusers.hooks.taylorseer_cache import TaylorSeerState

        self.state = TaylorSeerState(torch.bfloat16, order)

    def computed(self, step: int, feature: Tensor) -> None:
        """Update the differences."""
        self.state.current_step = step
        self.state.update((feature,))

    def forecast(self, step: int) -> Tensor:
        """Their Taylor polynomial."""
        self.state.current_step = step
        return self.state.predict()[0]


class CacheDitTaylor(Forecasting):
    """cache-dit's Taylor calibrator, at one tensor."""

    def __init__(self, order: int) -> None:
        from cache_dit.caching.cache_contexts.calibrators.taylorseer import TaylorSeerState

        self.state = TaylorSeerState(n_derivatives=order)

    def computed(self, step: int, feature: Tensor) -> None:
        """Update the differences."""
        self.state.current_step = step
        self.state.update(feature)

    def forecast(self, step: int) -> Tensor:
        """Their Taylor polynomial."""
        self.state.current_step = step
        return self.state.approximate()


class SpectrumOnTensors(Forecasting):
    """Spectrum as in its section 3.3: ridge regression for (M + 1) x F coefficients, then a product.

    Args:
        degree: M.
        ridge: lambda.
        refit: solve at every skipped step; else once after each computed step.
    """

    def __init__(self, degree: int = 4, ridge: float = 0.1, refit: bool = True) -> None:
        self.degree, self.ridge, self.refit = degree, ridge, refit
        self.steps: list[int] = []
        self.features: list[Tensor] = []
        self.coefficients = torch.empty(0)

    def basis(self, steps: list[int]) -> Tensor:
        """T_0 to T_M at the steps, shape (steps, M + 1)."""
        tau = 2.0 * torch.tensor(steps, dtype=torch.float32) / STEPS - 1.0
        columns = [torch.ones_like(tau), tau]
        while len(columns) <= self.degree:
            columns.append(2.0 * tau * columns[-1] - columns[-2])
        return torch.stack(columns, dim=1)

    def fit(self) -> None:
        """Solve for the coefficients, by Cholesky as the paper says."""
        design = self.basis(self.steps).to(self.features[0].device)
        features = torch.stack([feature.flatten() for feature in self.features])
        normal = design.T @ design + self.ridge * torch.eye(self.degree + 1, device=design.device)
        right = design.to(features.dtype).T @ features
        solved = torch.cholesky_solve(right.to(torch.float32), torch.linalg.cholesky(normal))
        self.coefficients = solved.to(features.dtype)

    def computed(self, step: int, feature: Tensor) -> None:
        """Keep it; fit now, unless every skipped step does."""
        self.steps.append(step)
        self.features.append(feature)
        if not self.refit:
            self.fit()

    def forecast(self, step: int) -> Tensor:
        """The basis at the step times the coefficients."""
        if self.refit:
            self.fit()
        target = self.basis([step]).to(self.coefficients)
        return (target @ self.coefficients).view(self.features[0].shape)


class L2POnTensors(Forecasting):
    """L2P as in its program: a float32 history of all steps, forecasts included, and one row per step.

    Args:
        matrix: row s holds the weights for step s + 1.
        in_place: the history is one tensor of all steps, made beforehand; else a list, stacked at each forecast.
    """

    def __init__(self, matrix: Tensor, in_place: bool) -> None:
        self.matrix, self.in_place = matrix, in_place
        self.like = torch.empty(0)
        self.history: Tensor | list[Tensor] = []

    def computed(self, step: int, feature: Tensor) -> None:
        """Append it in float32."""
        if step == 0:
            self.like = feature
            if self.in_place:
                self.history = torch.empty(STEPS, feature.numel(), dtype=torch.float32, device=feature.device)
        self.append(step, feature.flatten().to(torch.float32))

    def append(self, step: int, flat: Tensor) -> None:
        """Put a feature of this step into the history."""
        if isinstance(self.history, list):
            self.history.append(flat)
        else:
            self.history[step] = flat

    def forecast(self, step: int) -> Tensor:
        """The row times the history; it enters the history itself."""
        history = torch.stack(self.history) if isinstance(self.history, list) else self.history[:step]
        flat = self.matrix[step - 1, :step].to(history) @ history
        self.append(step, flat)
        return flat.to(self.like.dtype).view(self.like.shape)


def mixing_matrix(seed: int = 0) -> Tensor:
    """Dense lower-triangular matrix with positive rows that sum to one; cost does not depend on them."""
    weights = torch.rand(STEPS, STEPS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tril()
    return weights / weights.sum(dim=1, keepdim=True)
