"""How the commands are called on each whole folder; docs/models/folders.md is written from this table."""

from __future__ import annotations

from typing import NamedTuple

from tests.support.networks_video import LTX2_GUIDES_MORE

STEPS, NFE, SIZE = 6, 4, 32
OUTPUT_ONLY = ("reuse",)


class Family(NamedTuple):
    """Options of every command, and what to expect of it.

    Attributes:
        options: further arguments; ``{picture}``, ``{other}`` and ``{video}`` are files.
        branches: calls of a network per computed step.
        frames: of a video.
        steps: that the sampler takes.
        asked: steps to ask for, if the sampler takes fewer.
        nfe: computed steps.
        methods: compared with every step.
        size: height and width that are asked for; ``None`` if the call takes none.
        drawn: height and width of what is drawn; ``None`` if the pipeline decides it.
        sound: ``"alone"``, or ``"too"`` beside a video.
        layered: whether a picture has layers.
        even: whether all computed steps cost the same.
        compared: whether it is also calibrated and compared, for which some take minutes.
        needs: a package that the pipeline needs besides those that Foreseer installs.
        since: the first version of diffusers that draws this with the other packages as they are pinned.
        slow: whether only ``make test-matrix`` tries it.
    """

    options: tuple[str, ...] = ()
    branches: int = 1
    frames: int | None = None
    steps: int = STEPS
    asked: int | None = None
    nfe: int = NFE
    methods: tuple[str, ...] = ("reuse", "taylorseer")
    size: int | None = SIZE
    drawn: int | None = SIZE
    sound: str = ""
    layered: bool = False
    even: bool = True
    compared: bool = True
    needs: str = ""
    since: str = ""
    slow: bool = True


def _options(*options: str) -> tuple[str, ...]:
    return tuple(word for option in options for word in ("--option", option))


LTX2 = ["num_frames=9", "max_sequence_length=16", *(["spatio_temporal_guidance_blocks=[1]"] * LTX2_GUIDES_MORE)]
UNBINNED = "use_resolution_binning=false"
# The test tokenizers have a token per letter, so this system prompt is long.
LONG = _options("max_sequence_length=1000")

# Calibrated, drawn from and compared.
FAMILIES = {
    "sd3": Family(),
    "sdxl": Family(),
    "qwen_image": Family(("--true-cfg", "3", "--negative", "a blur"), 2),
    "wan": Family(_options("num_frames=5"), 2, 5),
    "ltx2": Family(_options(*LTX2), 3 if LTX2_GUIDES_MORE else 1, 9, 4, nfe=3, methods=OUTPUT_ONLY, sound="too"),
}
PROCESSED_FAMILIES = {
    "flux2": Family(needs="torchvision"),
    "kandinsky5": Family((*LONG, *_options("num_frames=5")), 2, 5, needs="torchvision"),
    "qwen_image_edit": Family(
        ("--negative", "a blur", "--image", "{picture}"),
        2,
        methods=OUTPUT_ONLY,
        size=128,
        drawn=128,
        needs="torchvision",
    ),
}
_SHORT = Family(steps=4, nfe=2)
_SOUND = _SHORT._replace(size=None, sound="alone")
_SEEING = _SHORT._replace(needs="torchvision")
NEWEST_FAMILIES = {
    "krea2": _SHORT._replace(options=_options("max_sequence_length=16"), branches=2),
    "ideogram_4": _SHORT._replace(
        options=("--guidance", "4", *_options("guidance_schedule=null", "max_sequence_length=64")),
        branches=2,
        slow=False,
    ),
    "ernie_image": _SHORT,
    "longcat_image": _SEEING._replace(options=_options("enable_prompt_rewrite=false"), branches=2),
    "qwen_image_2_1": _SEEING._replace(size=64, drawn=64, methods=OUTPUT_ONLY, even=False),
    "qwen_image_layered": _SEEING._replace(
        options=("--image", "{picture}", "--negative", " ", *_options("layers=2")),
        branches=2,
        size=None,
        drawn=None,
        layered=True,
        methods=OUTPUT_ONLY,
    ),
    "glm_image": _SHORT._replace(branches=2, methods=OUTPUT_ONLY),
    "hidream": _SHORT._replace(options=_options("max_sequence_length=64"), drawn=None, compared=False),
    "omnigen": _SEEING,
    "prx": _SHORT._replace(options=_options(UNBINNED)),
    "prx_pixel": _SHORT._replace(options=_options(UNBINNED), needs="ftfy"),
    "kandinsky_6": _SEEING._replace(options=_options("num_frames=5"), branches=2, frames=5, sound="too"),
    "cosmos_2": _SHORT._replace(branches=2, needs="cosmos_guardrail", since="0.38"),
    "cosmos_3": _SHORT._replace(options=_options("num_frames=5"), branches=2, frames=5),
    "minimax_h3": _SEEING._replace(options=_options("num_frames=124"), frames=124, asked=5, sound="too"),
    "any_flow": _SHORT._replace(options=_options("num_frames=5"), frames=5),
    "sana_video": _SHORT._replace(options=_options("frames=5", UNBINNED), frames=5),
    "wan_vace": _SHORT._replace(options=_options("num_frames=5", "video=@{video}"), branches=2, frames=5, needs="ftfy"),
    "wan_animate": _SHORT._replace(
        options=(
            *("--image", "{picture}"),
            *_options("pose_video=@{video}", "face_video=@{video}", "segment_frame_length=5"),
        ),
        frames=5,
        needs="ftfy",
    ),
    "stable_audio": _SOUND._replace(options=_options("audio_end_in_s=2"), slow=False),
    "stable_audio_3": _SOUND._replace(options=_options("duration=2")),
    "audio_ldm2": _SOUND._replace(options=_options("audio_length_in_s=0.01"), since="0.38", slow=False),
    "ace_step": _SOUND._replace(options=_options("audio_duration=4")),
    "longcat_audio": _SOUND._replace(options=_options("audio_duration_s=2"), branches=2),
}
# Drawn from.
PICTURED = {
    "flux_img2img": ("--image", "{picture}", *_options("strength=0.75")),
    "flux_fill": ("--image", "{picture}", *_options("mask_image=@{other}")),
    "flux_control": ("--image", "{picture}"),
    "flux_kontext": ("--image", "{picture}", *_options("_auto_resize=false", f"max_area={SIZE**2}")),
}
VIDEOS = {"hunyuan_video": 9, "hunyuan_video_1_5": 5, "cogvideox": 9, "ltx": 9, "mochi": 7}
UNBINNED_ONES = ("pixart_sigma", "sana")
# Options, pictures given, the size that is drawn, frames. Kandinsky 5 draws a megapixel at least, and videos from a
# picture of 17 frames at least: shorter ones divide by the deviation of no frame.
PROCESSED_OTHERS = {
    "flux2": ([], 1, 32, 1),
    "qwen_image_edit_plus": (["--negative", " "], 2, 128, 1),
    "kandinsky5_i2v": ([*LONG, "--option", "num_frames=17"], 1, 32, 17),
    "kandinsky_5_t2i": ([], 0, 1024, 1),
    "kandinsky_5_i2i": ([], 1, 1024, 1),
}
