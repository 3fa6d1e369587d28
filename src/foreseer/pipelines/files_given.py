"""Pictures and videos of a call, read from the files that its options name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from foreseer.errors import in_one_line
from foreseer.pipelines.loading import PipelineError

FROM_FILE = "foreseer_from_file"  # marks pictures in whose place the call had a path
# Placeholder for the pipeline's own name of its picture argument: one picture, the first of an animation.
PICTURE = "picture"
MOST_FRAMES = 10_000
TOO_MANY = f"it has more than {MOST_FRAMES} frames"
ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF")  # other formats keep thumbnails and pages beside the picture
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")


def read_pictures(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with pictures and videos in place of their paths; no pipeline is needed.

    A video (an animated picture, a folder of pictures, or a file that ffmpeg reads) is a list of pictures, as is a
    single picture that is given as a video.

    Raises:
        PipelineError: a file cannot be read as a picture or a video.
    """
    return {name: _read(name, value) for name, value in options.items()}


def fitted(pipe: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options``; pictures from files have an alpha channel only if the autoencoder of ``pipe`` takes it."""
    config = getattr(getattr(pipe, "vae", None), "config", None)
    config = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    mode = "RGBA" if 4 in (config.get("input_channels"), config.get("in_channels")) else "RGB"
    return {name: _converted(value, mode) for name, value in options.items()}


def _converted(value: Any, mode: str) -> Any:
    if isinstance(value, list):
        return [_converted(each, mode) for each in value]
    return value.convert(mode) if FROM_FILE in (getattr(value, "info", None) or ()) else value


def _read(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_read(name, each) for each in value]
    if not isinstance(value, Path):
        return value
    if name == PICTURE:
        return _pictures(value)[0]
    frames = _frames(value)
    single = len(frames) == 1 and not value.is_dir() and "video" not in name.split("_")
    return frames[0] if single else frames


def _frames(path: Path) -> list[Any]:
    from PIL import Image

    if path.is_dir():
        suffixes = Image.registered_extensions()
        frames = [_pictures(each)[0] for each in sorted(path.iterdir()) if each.suffix.lower() in suffixes]
        if not frames:
            raise PipelineError(f"Cannot read the video {path}: the folder holds no picture.")
        return frames
    return list(_video(path)) if path.suffix.lower() in VIDEOS else _pictures(path)


def _pictures(path: Path) -> list[Any]:
    """The picture in a file, or all frames of an animation."""
    from PIL import Image, ImageSequence

    try:
        with Image.open(path) as picture:
            if picture.format not in ANIMATIONS:
                return [_kept(picture)]
            frames = [_kept(frame) for frame in islice(ImageSequence.Iterator(picture), MOST_FRAMES + 1)]
            if len(frames) > MOST_FRAMES:
                raise ValueError(TOO_MANY)
            return frames
    except (OSError, ValueError) as error:
        raise PipelineError(f"Cannot read the picture {path}: {in_one_line(error)}.") from error


def _kept(picture: Any) -> Any:
    """A copy in RGB, with the alpha channel if there is one."""
    copy = picture.convert("RGBA" if getattr(picture, "has_transparency_data", False) else "RGB")
    copy.info = {FROM_FILE: True}
    return copy


def _video(path: Path) -> Iterator[Any]:
    """The frames that ffmpeg decodes."""
    from PIL import Image

    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise PipelineError(
            f"Cannot read the video {path}: that needs pip install imageio-ffmpeg. Without it give an animated GIF or "
            "a folder of pictures."
        ) from error
    try:
        frames = imageio_ffmpeg.read_frames(str(path))
        size = next(frames)["size"]
        for number, frame in enumerate(frames):
            if number >= MOST_FRAMES:
                raise ValueError(TOO_MANY)
            yield _kept(Image.frombytes("RGB", size, frame))
    except (OSError, ValueError, RuntimeError, StopIteration) as error:
        raise PipelineError(f"Cannot read the video {path}: {in_one_line(error)}.") from error
