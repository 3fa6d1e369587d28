"""What comes of every scheduler that diffusers ships: outcome and why, held true by `test_schedulers.py`."""

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
    "DDPMWuerstchen": "one noise level a step; its last timestep is where the run ends",
    "Helios": "one noise level a step; each stage of the pyramid is a run of its own",
    "HeliosDMD": "one noise level a step; each stage of the pyramid is a run of its own",
    "Piflow": "one noise level a step; the forecast is of all the predictions that the network gives at once",
    "SCM": "one noise level a step; its last timestep is where the run ends",
    "VQDiffusion": "tokens, but one noise level a step: the forecast is of log probabilities",
}
_FAILS_OPEN = {
    "Amused": "tokens: the network is told no timestep",
    "BlockRefinement": "tokens: the network is told no timestep",
    "DDIMInverse": "its noise levels rise",
    "DPMSolverMultistepInverse": "its noise levels rise",
    "DPMSolverSDE": "visits a noise level twice",
    "DiscreteDDIM": "tokens: the network is told no timestep",
    "EntropyBound": "tokens: the network is told no timestep",
    "FlowMatchHeunDiscrete": "visits a noise level twice",
    "HeunDiscrete": "visits a noise level twice",
    "KDPM2AncestralDiscrete": "visits a noise level twice",
    "KarrasVe": "the network is told a level other than the scheduler's: noise was added, or a step is corrected",
    "PNDM": "visits a noise level twice",
    "RFD4Proteina": "its noise levels rise",
    "RePaint": "visits a noise level twice: it jumps back (without jumps it works)",
    "ScoreSdeVe": "the network is told a noise scale that is not the scheduler's timestep, and called twice a level",
    "ScoreSdeVp": "the network is told a timestep of its training that is not the scheduler's",
}
# What the handle says where it fails open, by the words that the reason above begins with.
SAID = {
    "its noise levels rise": "must strictly decrease",
    "the network is told a": "is not one of the scheduler's",
    "tokens: the network is told no timestep": "the denoiser was given no timestep",
    "visits a noise level twice": "must strictly decrease",
}
OUTCOMES: dict[str, tuple[str, str]] = {
    **{f"{name}Scheduler": ("works", "one noise level a step") for name in _WORKS},
    **{f"{name}Scheduler": ("works", why) for name, why in _WORKS_TOO.items()},
    **{f"{name}Scheduler": ("fails open", f"{why}; every step is computed") for name, why in _FAILS_OPEN.items()},
}
