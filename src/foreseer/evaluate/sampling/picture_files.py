"""Write pictures and videos to files in the format that the suffix names."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from foreseer.evaluate.sampling.pixels import FRAME_MILLISECONDS, as_bytes
from foreseer.evaluate.sampling.sound_files import sound_of, sound_rate, write_sound
from foreseer.files.writing import FormatError, write_atomically, write_encoded
from foreseer.pipelines import check_finite, drawn, drawn_or_none

FRAME_RATES = (1.0, 120.0)  # frames per second


def check_format(path: Path, *, picture: bool = False) -> None:
    """Refuse a file name whose suffix no picture, video or sound can be written with.

    Args:
        path: the file.
        picture: whether a picture is drawn, not a video.

    Raises:
        FormatError: the suffix is unknown, or needs a package that is missing.
    """
    suffix = path.suffix.lower()
    if suffix in (".mp4", ".wav"):
        if picture:
            kind = "mp4 is for video" if suffix == ".mp4" else "wav is for sound"
            raise FormatError(f"Cannot write {path}: this model draws pictures, and {kind}. Name it .png.")
        if suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
            raise FormatError(f"Cannot write {path}: mp4 needs pip install imageio-ffmpeg. Name it .gif without it.")
        return
    from PIL import Image

    if suffix and suffix not in Image.registered_extensions():
        raise FormatError(f"Cannot write {path}: {suffix!r} is not a picture format. Name it .png, a video .gif.")


def write_picture(output: Any, path: Path, sound: tuple[Path, float] | None = None) -> None:
    """Write the first picture or video of a pipeline's output; creates the folder.

    A picture in layers is written a layer per file: the first as ``path``, then ``-layer-1`` and so on.

    Args:
        output: of the pipeline.
        path: the file.
        sound: WAV file of the video's sound, and its seconds; the video lasts as long. MP4 contains it.

    Raises:
        PipelineError: the output holds neither.
        FormatError: the picture cannot be written in the format of the suffix.
        OSError: the file cannot be written.
    """
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    batch, is_video = drawn(output)
    if not is_video and (isinstance(batch[0], list) or getattr(batch[0], "ndim", 3) == 4):
        for index, layer in enumerate(batch[0]):
            name = f"{path.stem}-layer-{index}{path.suffix}" if index else path.name
            write_picture(SimpleNamespace(images=[layer]), path.with_name(name))
        return
    frames = [
        frame if isinstance(frame, Image.Image) else Image.fromarray(as_bytes(frame)[0])
        for frame in (batch[0] if is_video else batch[:1])
    ]
    milliseconds = _frame_milliseconds(len(frames), sound)
    if path.suffix.lower() == ".mp4":
        _write_mp4(frames, path, 1000 / milliseconds, sound and sound[0])
        return

    def save(buffer: BytesIO, suffix: str) -> None:
        formats = Image.registered_extensions()
        if f".{suffix}" not in formats:
            raise ValueError(f"{suffix!r} is not a picture format")
        animation: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": round(milliseconds)}
        frames[0].save(buffer, formats[f".{suffix}"], **(animation | {"loop": 0} if is_video else {}))

    write_encoded(path, save)


def write_result(pipe: Any, output: Any, path: Path) -> Path:
    """Write a pipeline's first picture or video, and its sound as WAV beside it; return the main file.

    An MP4 file contains the sound as well. Where ``path`` is a WAV file, pictures are PNG and videos GIF beside it.

    Raises:
        PipelineError: the output holds neither picture, video nor sound, or values that are not finite.
        FormatError: the picture cannot be written in the format of the suffix.
        OSError: a file cannot be written.
    """
    check_finite(pipe, output)
    sound, made = sound_of(output), drawn_or_none(output)
    if made is not None and path.suffix.lower() == ".wav":
        path = path.with_suffix(".gif" if made.is_video else ".png")
    if sound is not None:
        beside, rate = path.with_suffix(".wav"), sound_rate(pipe)
        write_sound(sound, rate, beside)
        if made is None:
            return beside
        write_picture(output, path, (beside, sound.shape[1] / rate))
    else:
        write_picture(output, path)
    return path


def _frame_milliseconds(frames: int, sound: tuple[Path, float] | None) -> float:
    """Return how long each frame is shown; by the length of the sound if the rate is usual."""
    rate = frames / sound[1] if sound is not None and sound[1] > 0 else 0.0
    return 1000 / rate if FRAME_RATES[0] <= rate <= FRAME_RATES[1] else FRAME_MILLISECONDS


def _write_mp4(frames: list[Any], path: Path, rate: float, sound: Path | None) -> None:
    """Encode frames as H.264 and ``sound`` as AAC in a temporary folder; replace ``path`` atomically."""
    import imageio_ffmpeg

    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / "video.mp4"
        heard = {} if sound is None else {"audio_path": str(sound), "audio_codec": "aac", "ffmpeg_log_level": "error"}
        writer = imageio_ffmpeg.write_frames(str(partial), frames[0].size, fps=rate, macro_block_size=2, **heard)
        writer.send(None)
        for frame in frames:
            writer.send(frame.convert("RGB").tobytes())
        writer.close()
        write_atomically(path, partial.read_bytes())
