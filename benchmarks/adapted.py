"""Rows of the base model under a LoRA and at other guidance: bundled pipeline, 50 steps.

A LoRA of rank 4 on the attention layers is trained first: it gives the background of one colour another one. Rows of
the base model at its default guidance are compared with rows that are fitted again on the adapted model, on the same
captions, each against the adapted model's own full run.

    python -m benchmarks.adapted [--prompts 8] [--calibration 8] [--iterations 60] [--nfe 9]

Interrupted, the same command resumes with the next setting.
"""

import argparse
import copy
import re

import torch
from peft import LoraConfig
from torch import Tensor, nn

import foreseer as fs
from benchmarks.common import bundled, unfinished_rows, write
from benchmarks.learning import CALIBRATION_SEED, STEPS, Bench, captions
from benchmarks.networks import RecordedInputs

TRAINED, TARGET = "white", "purple"  # colours of the background
BATCH, RANK, RATE = 8, 4, 1e-3
TRAINING_OFFSET, TRAINING_SEED = 500, 333_000  # of captions that no other part uses
STRENGTHS, GUIDANCES = (0.5, 1.0, 1.5), (2.0, 5.0)
SENSITIVITY_PROMPTS = 2


def coloured(count: int, offset: int, colour: str) -> list[str]:
    """Captions with the same background."""
    return [re.sub(r"on an? \w+ background", f"on a {colour} background", each) for each in captions(count, offset)]


def train_lora(pipe, options, iterations: int) -> float:
    """Train a LoRA of the pipeline's network in place; return the last losses over the first ones.

    The untrained network with the target's caption is the teacher, on noised latents of pictures that it drew.
    """
    teacher, network = copy.deepcopy(pipe.transformer), pipe.transformer
    call = {**options, "output_type": "latent"}
    generator = torch.Generator().manual_seed(TRAINING_SEED)
    clean = pipe(coloured(BATCH, TRAINING_OFFSET, TARGET), num_inference_steps=20, generator=generator, **call).images
    conditions = [
        RecordedInputs(
            network,
            lambda colour=colour: pipe(coloured(BATCH, TRAINING_OFFSET, colour), num_inference_steps=1, **call),
        ).first
        for colour in (TARGET, TRAINED)
    ]
    network.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), adapter_name="colour"
    )
    weights = [weight for name, weight in network.named_parameters() if "lora" in name]
    optimiser = torch.optim.Adam(weights, lr=RATE)
    losses = []
    for _ in range(iterations):
        level = torch.rand(BATCH, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        sample = clean + level[:, None, None] * (noise - clean)
        with torch.no_grad():
            wanted = _velocity(teacher, conditions[0], sample, level)
        loss = (_velocity(network, conditions[1], sample, level) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    few = max(1, iterations // 6)
    return sum(losses[-few:]) / sum(losses[:few])


def _velocity(network: nn.Module, condition: dict[str, Tensor], sample: Tensor, level: Tensor) -> Tensor:
    return network(**{**condition, "hidden_states": sample, "timestep": level})[0]


def settings(pipe, options):
    """Name of each setting and its call options; the network is switched on the way."""
    for strength in (0.0, *STRENGTHS):
        pipe.transformer.set_adapters("colour", strength)
        yield (f"LoRA, strength {strength:g}" if strength else "base model"), options
    pipe.transformer.set_adapters("colour", 0.0)
    for guidance in GUIDANCES:
        yield f"guidance {guidance:g}", {**options, "guidance_scale": guidance}


def fitted(pipe, training, nfe, options):
    """Policies fitted on the pipeline as it is, by name."""
    common = {"seed": CALIBRATION_SEED, **options}
    kernel = fs.calibrate(pipe, training, num_inference_steps=STEPS, sensitivity_prompts=SENSITIVITY_PROMPTS, **common)
    return {
        "kernel rows": fs.learned(kernel, nfe=nfe),
        "rollout": fs.rollout(pipe, kernel, training, nfe=nfe, **common),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--calibration", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=60, help="of the LoRA's training")
    parser.add_argument("--nfe", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipe, _, options = bundled()
    options.pop("num_inference_steps")
    command = "python -m benchmarks.adapted " + " ".join(f"--{name} {value}" for name, value in vars(given).items())
    rows = unfinished_rows("adapted", command)
    done = {row["setting"] for row in rows}
    print(f"LoRA's loss relative to its first: {train_lora(pipe, options, given.iterations):.2f}", flush=True)
    training = coloured(given.calibration, 0, TRAINED)
    unseen = coloured(given.prompts, given.calibration, TRAINED)
    generic = fs.methods.find("generic").policy(steps=STEPS, nfe=given.nfe)
    base, drawn = {}, []
    for setting, call in settings(pipe, options):
        if setting in done and base:
            continue
        again = fitted(pipe, training, given.nfe, call)
        bench = Bench(pipe, call, unseen)
        base, drawn = base or again, drawn or bench.reference
        if setting in done:
            continue
        changed = bench.score(drawn)[0]
        policies = {"generic": generic} | {f"{name} of the base": rule for name, rule in base.items()}
        if again is not base:
            policies |= {f"{name}, fitted again": rule for name, rule in again.items()}
        for method, policy in policies.items():
            decibels, latent = bench.score(bench.sample(STEPS, policy))
            row = {"setting": setting, "like the base, dB": round(changed, 2), "method": method, "NFE": given.nfe}
            rows.append(row | {"PSNR, dB": round(decibels, 2), "latent error": round(latent, 5)})
            print(rows[-1], flush=True)
        write("adapted", command, rows, unfinished=True)
    write("adapted", command, rows)


if __name__ == "__main__":
    main()
