"""A full disk at every byte, and killed writers: the old file stays whole, and no other stays."""

import os
import resource
import signal
import time

from foreseer.errors import PlanFileError
from foreseer.plan import Plan
from tests.fuzz.subjects import make_plan


def check_full_disk(folder, positions=None):
    """Save with room for n bytes, for every n or a sample; returns the number of n and the failures."""
    place = folder / "full"
    place.mkdir()
    path = place / "kept.plan"
    old, new = make_plan(8, 1), make_plan(8, 2)
    new.save(path)
    size = path.stat().st_size
    old.save(path)
    content, faults = path.read_bytes(), []
    tried = range(0, size, max(1, size // positions) if positions else 1)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    for room in tried:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            new.save(path)
            faults.append({"room": room, "fault": "written although there is no room"})
        except PlanFileError as error:
            if "Cannot write" not in str(error):
                faults.append({"room": room, "fault": str(error)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        if path.read_bytes() != content or os.listdir(place) != [path.name]:
            faults.append({"room": room, "fault": f"left {sorted(os.listdir(place))}"})
    new.save(path)
    if Plan.load(path) != new:
        faults.append({"room": size, "fault": "not written with room enough"})
    return len(tried), faults


def check_kills(folder, kills, rng):
    """Kill a process that saves two plans in turn, at random moments: how often, and what went wrong."""
    place = folder / "killed"
    place.mkdir()
    path = place / "kept.plan"
    plans = [make_plan(60, seed) for seed in (1, 2)]
    plans[0].save(path)
    faults, most, left_behind = [], 0, 0
    for kill in range(kills):
        child = os.fork()
        if child == 0:
            while True:
                for plan in plans:
                    plan.save(path)
        time.sleep(rng.uniform(0.0005, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        litter = len(os.listdir(place)) - 1
        most, left_behind = max(most, litter), left_behind + (litter > 0)
        if Plan.load(path) not in plans or litter > 1:
            faults.append({"kill": kill, "fault": f"left {sorted(os.listdir(place))}"})
    plans[1].save(path)
    if os.listdir(place) != [path.name]:
        faults.append({"kill": kills, "fault": f"the next writer left {sorted(os.listdir(place))}"})
    return {"kills": kills, "that_left_a_part": left_behind, "most_parts_at_once": most}, faults
