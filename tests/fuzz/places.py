"""Places that are no file, or no longer: each a context that makes one and takes it away again."""

import contextlib
import os
import socket


@contextlib.contextmanager
def empty(subject, path, folder):
    """A file of 0 bytes."""
    path.write_bytes(b"")
    yield path, 0


@contextlib.contextmanager
def missing(subject, path, folder):
    """Nothing there."""
    yield path, 0


@contextlib.contextmanager
def directory(subject, path, folder):
    """A folder."""
    path.mkdir()
    try:
        yield path, 0
    finally:
        path.rmdir()


@contextlib.contextmanager
def pipe(subject, path, folder):
    """A named pipe that nobody writes to."""
    os.mkfifo(path)
    try:
        yield path, 0
    finally:
        path.unlink()


@contextlib.contextmanager
def unix_socket(subject, path, folder):
    """A socket."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        try:
            yield path, 0
        finally:
            path.unlink()


@contextlib.contextmanager
def _linked(path, target):
    path.symlink_to(target)
    try:
        yield path, 0
    finally:
        path.unlink()


def device(subject, path, folder):
    """A link to a device without end."""
    return _linked(path, "/dev/zero")


def loop(subject, path, folder):
    """A link to itself."""
    return _linked(path, path.name)


def dangling(subject, path, folder):
    """A link to nothing."""
    return _linked(path, "nothing-here")


@contextlib.contextmanager
def link(subject, path, folder):
    """A link to the good file: it is read."""
    good = folder / "good"
    good.write_bytes(subject.content)
    with _linked(path, good):
        yield path, len(subject.content)


@contextlib.contextmanager
def forbidden(subject, path, folder):
    """A good file that may not be read; the superuser steps down for it."""
    path.write_bytes(subject.content)
    path.chmod(0)
    is_root = os.geteuid() == 0
    folder.chmod(0o755)
    if is_root:
        os.seteuid(65534)
    try:
        yield path, len(subject.content)
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(0o644)


@contextlib.contextmanager
def sparse(subject, path, folder):
    """A file of a terabyte and a half, nearly all holes."""
    with path.open("wb") as file:
        file.write(subject.content)
        file.truncate(3 * 2**39)
    yield path, 0
    path.unlink()


@contextlib.contextmanager
def no_path(subject, path, folder):
    """A path with a NUL byte in it."""
    yield folder / "nul\0byte", 0


@contextlib.contextmanager
def long_name(subject, path, folder):
    """A name that no file system takes."""
    yield folder / ("x" * 300), 0


@contextlib.contextmanager
def below_file(subject, path, folder):
    """A path through a file."""
    path.write_bytes(subject.content)
    yield path / "below", 0


PLACES = {
    made.__name__.strip("_"): made
    for made in (
        *(empty, missing, directory, pipe, unix_socket, device, loop, dangling, link, forbidden, sparse),
        *(no_path, long_name, below_file),
    )
}
