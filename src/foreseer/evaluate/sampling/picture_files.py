"""Write pictures and videos to files in the format that the suffix names."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from foreseer.evaluate.sampling.pixels import FRAME_MILLISECONDS, as_bytes
from foreseer.evaluate.sampling.sound_files import sound_of, sound_rate, write_sound
from foreseer.files.writing import FormatError, write_atomically, write_encoded
from foreseer.pipelines import drawn, drawn_or_none


def check_format(path: Path, *, picture: bool = False) -> None:
    """Refuse a file name whose suffix no picture or video can be written with, before anything is drawn.

    Args:
        path: the file.
        picture: whether a picture is drawn, not a video.

    Raises:
        FormatError: the suffix is unknown, or needs a package that is missing.
    """
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        if picture:
            raise FormatError(f"Cannot write {path}: this model draws pictures, and mp4 is for video. Name it .png.")
        if find_spec("imageio_ffmpeg") is None:
            raise FormatError(f"Cannot write {path}: mp4 needs pip install imageio-ffmpeg. Name it .gif without it.")
        return
    from PIL import Image

    if suffix and suffix not in Image.registered_extensions():
        raise FormatError(f"Cannot write {path}: {suffix!r} is not a picture format. Name it .png, a video .gif.")


def write_picture(output: Any, path: Path) -> None:
    """Write the first picture or video of a pipeline's output; creates the folder.

    Raises:
        PipelineError: the output holds neither.
        FormatError: the picture cannot be written in the format of the suffix.
        OSError: the file cannot be written.
    """
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    batch, is_video = drawn(output)
    frames = [
        frame if isinstance(frame, Image.Image) else Image.fromarray(as_bytes(frame)[0])
        for frame in (batch[0] if is_video else batch[:1])
    ]
    if path.suffix.lower() == ".mp4":
        _write_mp4(frames, path)
        return

    def save(buffer: BytesIO, suffix: str) -> None:
        formats = Image.registered_extensions()
        if f".{suffix}" not in formats:
            raise ValueError(f"{suffix!r} is not a picture format")
        animation: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": FRAME_MILLISECONDS}
        frames[0].save(buffer, formats[f".{suffix}"], **(animation | {"loop": 0} if is_video else {}))

    write_encoded(path, save)


def write_result(pipe: Any, output: Any, path: Path) -> Path:
    """Write a pipeline's first picture or video, and its sound as WAV beside it; return the main file.

    Raises:
        PipelineError: the output holds neither picture, video nor sound.
        FormatError: the picture cannot be written in the format of the suffix.
        OSError: a file cannot be written.
    """
    sound = sound_of(output)
    if sound is not None:
        write_sound(sound, sound_rate(pipe), path.with_suffix(".wav"))
        if drawn_or_none(output) is None:
            return path.with_suffix(".wav")
    write_picture(output, path)
    return path


def _write_mp4(frames: list[Any], path: Path) -> None:
    """Encode frames as H.264 in a temporary folder, then replace ``path`` atomically."""
    import imageio_ffmpeg

    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / "video.mp4"
        rate = 1000 / FRAME_MILLISECONDS
        writer = imageio_ffmpeg.write_frames(str(partial), frames[0].size, fps=rate, macro_block_size=2)
        writer.send(None)
        for frame in frames:
            writer.send(frame.convert("RGB").tobytes())
        writer.close()
        write_atomically(path, partial.read_bytes())
