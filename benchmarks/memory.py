"""Extra peak memory of an accelerated run over the reference, against what `explain` announces.

The CPU allocator's own count, from torch's profiler: the peak of live bytes within one run, latents as output.

    python -m benchmarks.memory
"""

import torch

import foreseer as fs
from benchmarks.common import bundled, sample, write
from foreseer.evaluate.sampling.cost import watch_memory, weight_bytes

STEPS = 50
SETTINGS = (("reuse", 10), ("taylorseer", 10), ("newton", 10), ("spectrum", 10), ("spectrum", 25))


def peak_bytes(pipe, prompt, options) -> int:
    """The most bytes live at once in one run, over those live when it began."""
    sample(pipe, prompt, options, STEPS, seed=1)
    with watch_memory(pipe) as peak:
        sample(pipe, prompt, options, STEPS, seed=1)
    assert peak.bytes is not None
    return peak.bytes - weight_bytes(pipe)


def main() -> None:
    torch.set_num_threads(1)
    pipe, prompts, options = bundled()
    side = 2 * pipe.vae_scale_factor  # pixels of a token
    tokens, channels = options["height"] // side * (options["width"] // side), pipe.transformer.config.in_channels
    reference = peak_bytes(pipe, prompts[0], options)
    rows = []
    for method, nfe in SETTINGS:
        policy = fs.methods.find(method).policy(STEPS, nfe, site="output")
        explanation = policy.compile(fs.Grid.uniform(STEPS)).explain((1, tokens, channels))
        with fs.accelerate(pipe, policy, strict=True):
            peak = peak_bytes(pipe, prompts[0], options)
        rows.append(
            {
                "method": method,
                "NFE": nfe,
                "live features": explanation.most_live,
                "announced, bytes": explanation.live_bytes,
                "measured extra, bytes": peak - reference,
                "reference peak, bytes": reference,
            }
        )
    write("memory", "python -m benchmarks.memory", rows)


if __name__ == "__main__":
    main()
