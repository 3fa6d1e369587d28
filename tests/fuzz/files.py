"""Fuzzing of every file that Foreseer reads, and of how it writes them.

    python -m tests.fuzz.files --cases 50000 --seed 1 --out benchmarks/results/fuzz_files.json

Each case is one damaged file, or a place that is no file. It must give its kind's error in a clear sentence, or what an
independent check finds valid; where nothing mended the checksum, what the good file holds. In no case may it execute
or import anything, or take more memory than twice the file and what is granted beside, or ten seconds.
"""

import argparse
import collections
import contextlib
import json
import random
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path

import foreseer
from tests.fuzz.bytewise import BYTEWISE
from tests.fuzz.container import STRUCTURAL, Parts, header_text
from tests.fuzz.places import PLACES
from tests.fuzz.subjects import make_large, make_subjects
from tests.fuzz.writing import check_full_disk, check_kills

SECONDS = 10
LONGEST = 700  # characters of a message beside the path
LARGE_EVERY = 250
HEADER = 2**23  # bytes: what JSON of the longest header may take in memory
FORBIDDEN = (
    "exec",
    "compile",
    "import",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "pickle.find_class",
)


class TooSlowError(BaseException):
    """A reading took too long."""


class Watch:
    """Notes what must not happen while a file is read."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self._hook)
        self._old = signal.signal(signal.SIGALRM, self._late)

    def _hook(self, event, arguments):
        if self.on and event in FORBIDDEN:
            self.seen.append(event)

    def _late(self, *_):
        raise TooSlowError

    def reading(self, subject, path):
        """What reading gave or raised, and the most memory it took."""
        self.seen.clear()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        self.on = True
        try:
            found, error = subject.read(path), None
        except TooSlowError:
            found, error = None, TooSlowError("no answer")
        except Exception as raised:  # noqa: BLE001
            found, error = None, raised.with_traceback(None)
        finally:
            self.on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        return found, error, tracemalloc.get_traced_memory()[1] - before


def damage(subject, rng):
    """A kind of damage, and the content that it makes; whether its checksum was mended."""
    if subject.structured and rng.random() < 0.6:
        kind = rng.choice((*STRUCTURAL, "values", "header_text"))
        if kind == "header_text":
            return kind, header_text(subject.content, rng), False
        parts = Parts.of(subject.content)
        STRUCTURAL[kind](parts, rng)
        if rng.random() < 0.25:
            with contextlib.suppress(TypeError, LookupError, ValueError, OverflowError, AttributeError, struct.error):
                STRUCTURAL[rng.choice(tuple(STRUCTURAL))](parts, rng)  # where it fits what the first has left
        mended = rng.random() < 0.9
        if mended:
            parts.mend_checksum()
        return kind, parts.file(), mended
    kind = rng.choice(tuple(BYTEWISE))
    return kind, BYTEWISE[kind](subject.content, rng), False


def verdict(subject, kind, result, size, mended, truth, path):
    """What came out, in a word; and what is wrong with it."""
    found, error, peak = result
    wrong = []
    if error is not None:
        word = f"{type(error).__name__}"
        message = str(error)
        if not isinstance(error, subject.error):
            wrong.append(f"{word}: {message[:200]}")
        elif not message.strip() or len(message.replace(str(path), "")) > LONGEST:
            wrong.append(f"a message of {len(message)} characters")
    else:
        word = "read, valid"
        fault = subject.check(found)
        if fault:
            wrong.append(f"read although its {fault} is wrong")
        if subject.same is not None:
            equal = subject.same(found, truth)
            word = "read, as the good file" if equal else "read, another valid file"
            if not equal and not mended:
                wrong.append("read as another file, without its checksum")
    if peak > 2 * size + (HEADER if kind == "header_text" else subject.spare):
        wrong.append(f"{peak} bytes of memory for a file of {size}")
    return word, wrong


def run(cases, seed, folder, kills=0, positions=None, progress=lambda done: None):
    """All cases; a summary as plain values.

    Args:
        cases: damaged files and places.
        seed: of all of them.
        folder: an empty one, to write in.
        kills: how many writers are killed on top.
        positions: at how many bytes a disk is full on top; all by default.
        progress: called with cases done.
    """
    rng = random.Random(seed)
    (folder / "made").mkdir()
    subjects, large = make_subjects(folder / "made"), make_large(folder / "made")
    outcomes, by_kind, faults, factor = collections.Counter(), {}, [], {}
    tracemalloc.start()
    watch = Watch()
    for subject in (*subjects, *large):  # what is imported when first needed
        (folder / subject.file).write_bytes(subject.content)
        subject.read(folder / subject.file)
    truths = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for subject in (*subjects, *large):
            path = folder / subject.file
            path.write_bytes(subject.content)
            truths[subject.name], error, peak = watch.reading(subject, path)
            assert error is None, f"{subject.name}: {error!r}"
            fault = subject.check(truths[subject.name])
            assert not fault, f"{subject.name}: {fault}"
            if subject in large:
                factor[subject.name] = peak / len(subject.content)
        for case in range(cases):
            subject = rng.choice(large if case % LARGE_EVERY == 0 else subjects)
            path = folder / subject.file
            path.unlink(missing_ok=True)
            if case % 50 == 7 and subject.name != "sampling.json":
                kind = rng.choice(tuple(PLACES))
                with PLACES[kind](subject, path, folder) as (place, size):
                    result = watch.reading(subject, place)
                mended = False
            else:
                kind, content, mended = damage(subject, rng)
                path.write_bytes(content)
                result, size = watch.reading(subject, path), len(content)
            word, wrong = verdict(subject, kind, result, size, mended, truths[subject.name], path)
            wrong += [f"{event} was called" for event in dict.fromkeys(watch.seen)]
            outcomes[word] += 1
            by_kind.setdefault(kind, collections.Counter())[word] += 1
            if subject in large and size > 2**20 and kind != "header_text":
                factor[subject.name] = max(factor.get(subject.name, 0.0), result[2] / size)
            faults += [{"case": case, "subject": subject.name, "kind": kind, "fault": one} for one in wrong]
            progress(case + 1)
    signal.signal(signal.SIGALRM, watch._old)
    tracemalloc.stop()
    full, full_faults = check_full_disk(folder, positions)
    killed, kill_faults = check_kills(folder, kills, rng)
    return {
        "foreseer": foreseer.__version__,
        "seed": seed,
        "cases": cases,
        "outcomes": dict(sorted(outcomes.items())),
        "by_kind": {kind: dict(sorted(counts.items())) for kind, counts in sorted(by_kind.items())},
        "peak_memory_over_file_size": {name: round(value, 3) for name, value in sorted(factor.items())},
        "full_disk_at_byte_positions": full,
        "killed_writers": killed,
        "faults": faults + full_faults + kill_faults,
    }


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="Fuzz every file that Foreseer reads, and how it writes them.")
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--positions", type=int, help="bytes at which a disk is full; by default every one")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    began = time.monotonic()

    def progress(done):
        if done % 5000 == 0:
            print(f"{done} cases, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        found = run(asked.cases, asked.seed, Path(folder), asked.kills, asked.positions, progress)
    command = f"python -m tests.fuzz.files --cases {asked.cases} --seed {asked.seed} --kills {asked.kills}"
    text = json.dumps({"command": command, "python": sys.version.split()[0], **found}, indent=1) + "\n"
    if asked.out is not None:
        asked.out.write_text(text)
    print(text)
    sys.exit(bool(found["faults"]))


if __name__ == "__main__":
    main()
