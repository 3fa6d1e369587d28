"""Write a trained checkpoint as a folder that ``FluxPipeline.from_pretrained`` loads.

The moving average of the weights is stored, in bfloat16 unless another precision is asked for. The text
encoders' files say float32, so that a plain ``from_pretrained`` gives the whole pipeline one precision.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline

from common import WORK
from text_models import TEXT_TOKENS
from train_transformer import build_models

PROMPTS = (
    "a red apple on a blue background",
    "a panda on a red background",
    "a sunflower on a purple background",
    "a slice of pizza on a green background",
    "a penguin on a yellow background",
    "a birthday cake on a pink background",
    "a rocket on a black background",
    "an octopus on a white background",
    "a tiger face on a blue background",
    "a cactus on a red background",
    "a teddy bear on a green background",
    "a rainbow on a white background",
)
SAMPLING = {
    "height": 64,
    "width": 64,
    "max_sequence_length": TEXT_TOKENS,
    "num_inference_steps": 50,
    "guidance_scale": 3.5,
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
KEPT_FILES = ("README.md", "LICENSE")


def load_average(networks, checkpoint):
    """Give the networks the moving average of the weights in a trainer's checkpoint."""
    state = torch.load(checkpoint)
    networks.load_state_dict(state["model"])
    trained = [p for p in networks.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter, average in zip(trained, state["average"], strict=True):
            parameter.copy_(average)
    print(f"checkpoint of step {state['step']}, {state['spent'] / 60:.1f} minutes")


def assemble(work, checkpoint):
    """Return the pipeline of a work folder's autoencoder and a trainer's checkpoint, in float32."""
    names = torch.load(work / "latents.pt", mmap=True)["names"]
    networks, clip_tokenizer, t5_tokenizer = build_models(names)
    load_average(networks, work / checkpoint)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=networks.text_encoder,
        tokenizer=clip_tokenizer,
        text_encoder_2=networks.text_encoder_2,
        tokenizer_2=t5_tokenizer,
        transformer=networks.transformer,
    )


def write_pipeline(pipeline, folder, sampling, dtype):
    """Save the pipeline in a dtype, its text encoders declared float32, and how to call it."""
    pipeline.to(dtype).save_pretrained(folder)
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        if path.parent.name in TEXT_ENCODERS:
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "sampling.json").write_text(json.dumps(sampling, indent=2) + "\n")


def replace_folder(new, target):
    """Put the new folder in the target's place, keeping the target's card and licence."""
    for name in KEPT_FILES:
        if (target / name).exists():
            shutil.copy(target / name, new / name)
    old = target.with_name(target.name + ".old")
    if target.exists():
        target.rename(old)
    for path in new.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def export(pipeline, output, sampling, dtype):
    """Write the pipeline's folder at once, in the place of an older one if there is one."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=output.name + "."))
    temporary.chmod(0o755)
    write_pipeline(pipeline, temporary, sampling, dtype)
    replace_folder(temporary, output)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size} bytes")


def main():
    """Parse the command line, assemble and write the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of checkpoints")
    parser.add_argument("--checkpoint", default="guided.pt", help="transformer.pt or guided.pt in that folder")
    parser.add_argument("--output", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument("--dtype", default="bfloat16", help="precision of the weights: float32 to go on training")
    args = parser.parse_args()
    pipeline = assemble(args.work, args.checkpoint)
    export(pipeline, args.output, {**SAMPLING, "prompts": list(PROMPTS)}, getattr(torch, args.dtype))


if __name__ == "__main__":
    main()
