"""What comes of every scheduler that diffusers ships: outcome and why, held true by `test_schedulers.py`."""

from __future__ import annotations

_TWICE = "visits a noise level twice: every step computed"
_RISING = "its noise levels rise: every step computed"
_WORKS = (
    *("CMStochasticIterative", "CogVideoXDDIM", "DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep"),
    *("DPMSolverMultistep", "DPMSolverSinglestep", "EDMDPMSolverMultistep", "EDMEuler", "EulerAncestralDiscrete"),
    *("EulerDiscrete", "FlowMapEulerDiscrete", "FlowMatchEulerDiscrete", "FlowMatchLCM", "IPNDM", "KDPM2Discrete"),
    *("LCM", "LMSDiscrete", "LTXEulerAncestralRF", "MiniMaxH3", "SASolver", "TCD", "UnCLIP", "UniPCMultistep"),
)
_FAILS_OPEN = {
    "DDIMInverse": _RISING,
    "DPMSolverMultistepInverse": _RISING,
    "FlowMatchHeunDiscrete": _TWICE,
    "HeunDiscrete": _TWICE,
    "KDPM2AncestralDiscrete": _TWICE,
    "PNDM": _TWICE,
}
# Another loop than (network, step) drives these.
OTHER_LOOP = {
    "Amused": "tokens that are unmasked",
    "BlockRefinement": "tokens that are unmasked",
    "CogVideoXDPM": "takes the last clean estimate too",
    "CosineDPMSolverMultistep": "needs torchsde",
    "DDPMWuerstchen": "timesteps as ratios, in batches",
    "DPMSolverSDE": "needs torchsde",
    "DiscreteDDIM": "tokens",
    "EntropyBound": "tokens",
    "Helios": "stages of a pyramid",
    "HeliosDMD": "stages of a pyramid",
    "KarrasVe": "two calls a step of its own",
    "Piflow": "the network gives a policy, not a velocity",
    "RFD4Proteina": "proteins",
    "RePaint": "goes back in time by design",
    "SCM": "two steps only",
    "ScoreSdeVe": "predictor and corrector of its own",
    "VQDiffusion": "tokens",
}
OUTCOMES: dict[str, tuple[str, str]] = {
    **{f"{name}Scheduler": ("works", "one noise level a step") for name in _WORKS},
    **{f"{name}Scheduler": ("fails open", why) for name, why in _FAILS_OPEN.items()},
    **{f"{name}Scheduler": ("not tried", f"another loop: {why}") for name, why in OTHER_LOOP.items()},
}
