"""Outcome and reason for every scheduler in diffusers, verified by `test_schedulers.py`."""

from __future__ import annotations

_WORKS = (
    *(
        "CMStochasticIterative",
        "CogVideoXDDIM",
        "CogVideoXDPM",
        "ConsistencyDecoder",
        "CosineDPMSolverMultistep",
        "DDIM",
    ),
    *(
        "DDIMParallel",
        "DDPM",
        "DDPMParallel",
        "DEISMultistep",
        "DPMSolverMultistep",
        "DPMSolverSinglestep",
        "EDMDPMSolverMultistep",
    ),
    *("EDMEuler", "EulerAncestralDiscrete", "EulerDiscrete", "FlowMapEulerDiscrete", "FlowMatchEulerDiscrete"),
    *("FlowMatchLCM", "IPNDM", "KDPM2Discrete", "LCM", "LMSDiscrete", "LTXEulerAncestralRF", "MiniMaxH3", "SASolver"),
    *("TCD", "UnCLIP", "UniPCMultistep"),
)
_WORKS_TOO = {
    "DDPMWuerstchen": "one noise level per step; the last timestep only ends the run",
    "Helios": "one noise level per step; each stage of the pyramid is a separate run",
    "HeliosDMD": "one noise level per step; each stage of the pyramid is a separate run",
    "Piflow": "one noise level per step; all predictions of one call are forecast together",
    "SCM": "one noise level per step; the last timestep only ends the run",
    **dict.fromkeys(
        ("DPMSolverSDE", "FlowMatchHeunDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "PNDM"),
        "visits noise levels twice: formulas forecast first and second visits apart, learned rows combine them",
    ),
    "VQDiffusion": "discrete tokens; log probabilities are forecast",
}
_FAILS_OPEN = {
    "Amused": "discrete tokens; the network gets no timestep",
    "BlockRefinement": "discrete tokens; the network gets no timestep",
    "DDIMInverse": "its noise levels rise",
    "DPMSolverMultistepInverse": "its noise levels rise",
    "DiscreteDDIM": "discrete tokens; the network gets no timestep",
    "EntropyBound": "discrete tokens; the network gets no timestep",
    "KarrasVe": "the network gets another noise level than the scheduler's (added noise, corrected steps)",
    "RFD4Proteina": "its noise levels rise",
    "RePaint": "visits a noise level twice, by jumping back (works without jumps)",
    "ScoreSdeVe": "the network gets a noise scale instead of the timestep, and is called twice per level",
    "ScoreSdeVp": "the network gets a timestep that is not the scheduler's",
}
# The handle's message where it fails open, by the beginning of the reason above.
SAID = {
    "its noise levels rise": "must strictly decrease",
    "the network gets a": "is not exactly one of its timesteps",
    "discrete tokens; the network gets no timestep": "given no timestep",
    "visits a noise level twice": "must strictly decrease",
}
OUTCOMES: dict[str, tuple[str, str]] = {
    **{f"{name}Scheduler": ("works", "one noise level per step") for name in _WORKS},
    **{f"{name}Scheduler": ("works", why) for name, why in _WORKS_TOO.items()},
    **{f"{name}Scheduler": ("fails open", why) for name, why in _FAILS_OPEN.items()},
}
