"""Muon for convolutions: each kernel is stepped as a matrix of outputs by everything else."""

import torch


class FlatMuon:
    """Muon for parameters of two dimensions or more, flattened to matrices, and AdamW for the others."""

    def __init__(self, parameters, rate):
        self._matrices = [p for p in parameters if p.ndim > 1 and p.numel() > max(p.shape)]
        known = {id(p) for p in self._matrices}
        others = [p for p in parameters if id(p) not in known]
        self._flat = [torch.nn.Parameter(p.data.flatten(1)) for p in self._matrices]
        muon = torch.optim.Muon(self._flat, lr=rate, weight_decay=1e-3, adjust_lr_fn="match_rms_adamw")
        adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)
        self._optimizers = (muon, adam)

    @property
    def param_groups(self):
        """The groups of both optimizers."""
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def step(self):
        """Step every parameter; a flat matrix is a view of its kernel, and so moves it."""
        for matrix, flat in zip(self._matrices, self._flat, strict=True):
            flat.grad = matrix.grad.flatten(1)
        for optimizer in self._optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none=True):
        """Drop all gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none)
        for matrix in self._matrices:
            matrix.grad = None

    def state_dict(self):
        """The state of both optimizers."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states):
        """Take up the state of both optimizers."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)
