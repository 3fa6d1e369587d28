"""Plan files: the way there and back is exact, writing is atomic, and nothing but a plan is read."""

import json
import os
import stat
import struct

import numpy as np
import pytest
from hypothesis import given
from safetensors.numpy import save as written

from foreseer.errors import PlanFileError
from foreseer.files import checksum
from foreseer.plan import Plan
from tests.support.plans import make_plan, plans

PLAN = make_plan(1, steps=10, site="last_block", provenance={"schedule": "Uniform(4.0)"})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ten.plan.safetensors"


@given(plan=plans)
def test_what_is_saved_comes_back_exactly(tmp_path_factory, plan):
    path = tmp_path_factory.mktemp("plans") / "any name.plan"
    plan.save(path)
    again = Plan.load(str(path))
    assert again == plan
    assert again.grid.key == plan.grid.key
    assert again.rows.tobytes() == plan.rows.tobytes()
    assert dict(again.provenance) == dict(plan.provenance)
    again.save(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert Plan.load(path) == plan


def test_a_saved_plan_can_be_read_by_whom_the_umask_lets(path):
    umask = os.umask(0o022)
    try:
        PLAN.save(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file(path, monkeypatch, failing):
    PLAN.save(path)
    old = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(PlanFileError, match="No space left"):
        make_plan(2).save(path)
    assert path.read_bytes() == old
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place in ("missing/plan", "file/plan", "folder", "x" * 300):
        with pytest.raises(PlanFileError, match="Cannot write"):
            PLAN.save(tmp_path / place)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def save(arrays, metadata=None):
    """A file whose checksum is right, so that what is refused is refused for its content."""
    if metadata is None:
        return written(arrays)
    return written(arrays, {**metadata, "checksum": checksum(arrays, metadata)})


def contents(plan=PLAN):
    arrays = {
        "noise_levels": plan.grid.levels,
        "computed_steps": np.array(plan.computed_steps, dtype=np.int64),
        "rows": plan.rows,
    }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, written_metadata(plan)


def written_metadata(plan):
    return {
        "format": "foreseer.plan",
        "version": "1",
        "unit": plan.grid.unit,
        "final_level": repr(plan.grid.final_level),
        "site": plan.site,
        "provenance": json.dumps(dict(plan.provenance)),
    }


def test_a_file_put_together_by_hand_is_read(path):
    path.write_bytes(save(*contents()))
    assert Plan.load(path) == PLAN


def test_a_flipped_bit_in_a_weight_is_found(path):
    PLAN.save(path)
    whole = path.read_bytes()
    for place in (len(whole) - 100, len(whole) - 9, whole.index(b"last_block")):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(PlanFileError):
            Plan.load(path)


METADATA = {
    "other format": {"format": "foreseer.kernel"},
    "future version": {"version": "6"},
    "far future": {"version": "9" * 5000},
    "version zero": {"version": "0"},
    "negative version": {"version": "-1"},
    "version in words": {"version": "one"},
    "superscript version": {"version": "\u00b9"},
    "no version": {"version": None},
    "no unit": {"unit": None},
    "other unit": {"unit": "percent"},
    "level in words": {"final_level": "zero"},
    "level not finite": {"final_level": "nan"},
    "level too high": {"final_level": "1e9"},
    "no site": {"site": None},
    "other site": {"site": "everywhere"},
    "provenance a list": {"provenance": "[]"},
    "provenance a word": {"provenance": '"word"'},
    "provenance null": {"provenance": "null"},
    "provenance no JSON": {"provenance": "{'a': 1}"},
    "provenance empty": {"provenance": ""},
    "provenance of numbers": {"provenance": '{"a": 1}'},
    "provenance deep": {"provenance": "[" * 100_000},
    "provenance of a huge number": {"provenance": "1" * 5000},
}


@pytest.mark.parametrize("change", METADATA.values(), ids=METADATA)
def test_wrong_metadata_is_refused(path, change, as_users_call):
    arrays, metadata = contents()
    metadata = {key: value for key, value in {**metadata, **change}.items() if value is not None}
    path.write_bytes(save(arrays, metadata))
    with pytest.raises(PlanFileError):
        Plan.load(path)


def with_weight(row, column, value):
    rows = np.array(PLAN.rows)
    rows[row, column] = value
    return rows


SKIPPED = PLAN.forecast_steps
ARRAYS = {
    "NaN row": {"rows": with_weight(SKIPPED[0], 0, np.nan)},
    "infinite row": {"rows": with_weight(SKIPPED[0], 0, np.inf)},
    "weight on a skipped step": {"rows": with_weight(SKIPPED[1], SKIPPED[0], 0.5)},
    "weight on a later step": {"rows": with_weight(SKIPPED[0], PLAN.computed_steps[-1], 0.5)},
    "computed row not a unit": {"rows": with_weight(0, 0, 0.5)},
    "flat rows": {"rows": PLAN.rows.ravel()},
    "fewer rows": {"rows": PLAN.rows[:-1]},
    "no rows": {"rows": None},
    "float32 rows": {"rows": PLAN.rows.astype(np.float32)},
    "integer rows": {"rows": PLAN.rows.astype(np.int64)},
    "int32 steps": {"computed_steps": np.array(PLAN.computed_steps, dtype=np.int32)},
    "float steps": {"computed_steps": np.array(PLAN.computed_steps, dtype=np.float64)},
    "unsigned steps": {"computed_steps": np.array(PLAN.computed_steps, dtype=np.uint64)},
    "no steps": {"computed_steps": None},
    "empty steps": {"computed_steps": np.empty(0, dtype=np.int64)},
    "square steps": {"computed_steps": np.zeros((2, 2), dtype=np.int64)},
    "scalar step": {"computed_steps": np.array(0, dtype=np.int64)},
    "steps backwards": {"computed_steps": np.array(PLAN.computed_steps[::-1], dtype=np.int64)},
    "step beyond": {"computed_steps": np.array([0, 99], dtype=np.int64)},
    "float32 levels": {"noise_levels": PLAN.grid.levels.astype(np.float32)},
    "rising levels": {"noise_levels": PLAN.grid.levels[::-1].copy()},
    "NaN level": {"noise_levels": np.full(10, np.nan)},
    "no levels": {"noise_levels": None},
    "empty levels": {"noise_levels": np.empty(0)},
    "scalar level": {"noise_levels": np.array(1.0)},
}


@pytest.mark.parametrize("change", ARRAYS.values(), ids=ARRAYS)
def test_wrong_arrays_are_refused(path, change, as_users_call):
    arrays, metadata = contents()
    arrays = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    path.write_bytes(save(arrays, metadata))
    with pytest.raises(PlanFileError):
        Plan.load(path)


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


BITS = {"F4": 4, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "BOOL": 8, "I8": 8, "U16": 16, "BF16": 16, "F16": 16}
BITS |= {"F32": 32, "I64": 64, "C64": 64, "Q7": 8}


@pytest.mark.parametrize("dtype", BITS)
def test_every_other_dtype_of_the_format_is_refused(path, dtype, as_users_call):
    size = 100 * BITS[dtype] // 8
    header = {
        "__metadata__": {**written_metadata(PLAN), "checksum": "0" * 64},
        "rows": {"dtype": dtype, "shape": [10, 10]},
    }
    header["rows"]["data_offsets"] = [0, size]
    header["noise_levels"] = {"dtype": "F64", "shape": [10], "data_offsets": [size, size + 80]}
    header["computed_steps"] = {"dtype": "I64", "shape": [1], "data_offsets": [size + 80, size + 88]}
    path.write_bytes(raw(header, bytes(size) + PLAN.grid.levels.tobytes() + bytes(8)))
    with pytest.raises(PlanFileError):
        Plan.load(path)


FOREIGN = {
    "empty": b"",
    "one byte": b"\x08",
    "words": b"a plan of nine steps\n" * 50,
    "zeros": bytes(4096),
    "huge header": struct.pack("<Q", 2**63) + b"{}" * 100,
    "large header": struct.pack("<Q", 90_000_000) + b"{}" * 100,
    "header of spaces": raw(b" " * 10_000),
    "header no JSON": raw(b"{'a': 1}"),
    "header no UTF-8": raw(b'{"\xff": 1}'),
    "header deep": raw(b'{"a":' * 50_000),
    "metadata of numbers": raw({"__metadata__": {"format": 1}}),
    "metadata only": raw({"__metadata__": written_metadata(PLAN)}),
    "no metadata": save({"rows": np.eye(3)}),
    "foreign": save({"weight": np.zeros((4, 4), dtype=np.float16)}, {"format": "pt"}),
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a.",
    "huge shape": raw({"rows": {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, bytes(8)),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(PlanFileError):
        Plan.load(path)


@pytest.mark.parametrize("place", ["missing.plan", ".", "", "x" * 300, "a/b/c", "nul\0byte"])
def test_what_is_no_file_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanFileError):
        Plan.load(place)


def test_a_huge_file_is_refused_unread(path):
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PlanFileError, match="1099511627776 bytes"):
        Plan.load(path)


def test_a_truncated_file_is_refused(path):
    PLAN.save(path)
    whole = path.read_bytes()
    assert len(whole) > 1000
    for length in (*range(0, len(whole), 64), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(PlanFileError):
            Plan.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(PlanFileError):
        Plan.load(path)


def test_damaged_files_give_a_valid_plan_or_a_plan_file_error_and_nothing_else(path, as_users_call):
    """Seeded flips, overwritten runs, cuts and insertions, half of them in the header."""
    PLAN.save(path)
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    generator, refused = np.random.default_rng(5), 0
    for trial in range(600):
        damaged = bytearray(whole)
        place = int(generator.integers(header if trial % 2 else len(whole)))
        length = int(generator.integers(1, 9))
        junk = generator.integers(0, 256, size=length, dtype=np.uint8).tobytes()
        if trial % 4 < 2:
            damaged[place] ^= 1 << int(generator.integers(8))
        else:
            damaged[place : place + length] = junk if trial % 4 == 2 or generator.random() < 0.5 else b""
        path.write_bytes(bytes(damaged))
        try:
            plan = Plan.load(path)
        except PlanFileError:
            refused += 1
        else:
            assert np.all(np.isfinite(plan.rows))
            assert Plan(plan.grid, plan.computed_steps, plan.rows, plan.site, plan.provenance) == plan
    assert refused > 200
