"""A calibration on two Ray nodes in separate network namespaces; one node is cut off on the way.

Needs root and `ip`. Two namespaces are joined by a virtual cable: 10.77.0.1 runs the head node and the command,
10.77.0.2 a second node. The command calibrates the bundled pipeline twice: undisturbed, and with the second node's
cable pulled after some prompts. Both kernels must equal one made in this process, bit for bit.

    OMP_NUM_THREADS=1 python -m benchmarks.two_nodes [--prompts 6] [--steps 10]
"""

import argparse
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import foreseer as fs
from benchmarks.common import write
from foreseer.kernel.kernel_file import encode_kernel

HEAD, OTHER, PORT = "10.77.0.1", "10.77.0.2", 6399
SPACES = {"foreseer-head": HEAD, "foreseer-other": OTHER}
CABLES = dict(zip(SPACES, ("fs-head", "fs-other"), strict=True))
PLACE = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
PLACE |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # of this cluster alone
# Half a minute, not five, until a silent node counts as lost.
PLACE |= {"RAY_health_check_initial_delay_ms": "5000", "RAY_health_check_period_ms": "2000"}
PLACE |= {"RAY_health_check_timeout_ms": "5000", "RAY_health_check_failure_threshold": "5"}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def inside(space: str, *command: str, **more) -> subprocess.Popen:
    return subprocess.Popen(["ip", "netns", "exec", space, *command], env=PLACE, **more)


def build() -> None:
    for space in SPACES:
        ip("netns", "add", space)
    head, other = SPACES
    ip("link", "add", CABLES[head], "netns", head, "type", "veth", "peer", "name", CABLES[other], "netns", other)
    for space, address in SPACES.items():
        ip("-n", space, "addr", "add", f"{address}/24", "dev", CABLES[space])
        for device in ("lo", CABLES[space]):
            ip("-n", space, "link", "set", device, "up")


def start(space: str, *options: str) -> subprocess.Popen:
    """Start a node with a separate folder; it ends with its process."""
    folder = tempfile.mkdtemp(prefix="fs-ray-", dir="/tmp")
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    ray += ["--object-store-memory=100000000", f"--node-ip-address={SPACES[space]}", f"--temp-dir={folder}"]
    node = inside(space, *ray, *options, stdout=subprocess.DEVNULL)
    port = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
    for _ in range(120):
        if node.poll() is not None:
            raise SystemExit(f"The node in {space} did not start.")
        reach = [sys.executable, "-c", port, HEAD, str(PORT)]
        if inside(space, *reach, stderr=subprocess.DEVNULL).wait() == 0:
            return node
        time.sleep(1)
    raise SystemExit(f"The head node cannot be reached from {space}.")


def end(nodes: list[subprocess.Popen]) -> None:
    """End the nodes, what is left in the namespaces, and the namespaces."""
    for node in nodes:
        node.terminate()
    for node in nodes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(60)
    for space in SPACES:
        left = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False).stdout
        for process in left.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", space], check=False)


def command(out: Path, prompts: Path, steps: int) -> subprocess.Popen:
    arguments = ["calibrate", "emoji", "--prompts", str(prompts), "--steps", str(steps), "-o", str(out)]
    place = ["--ray", f"{HEAD}:{PORT}", "--workers", "2"]
    return inside("foreseer-head", sys.executable, "-m", "foreseer", *arguments, *place)


def calibrated(out: Path, prompts: Path, steps: int, pull_after: int | None) -> bytes:
    """The bytes of a kernel; the second node's cable is pulled once ``pull_after`` prompts are done."""
    running = command(out, prompts, steps)
    partial = out.with_name(f".{out.name}.partial")
    while pull_after is not None and running.poll() is None:
        if len(list(partial.glob("kernel-*.unit"))) >= pull_after:
            ip("-n", "foreseer-other", "link", "set", CABLES["foreseer-other"], "down")
            break
        time.sleep(0.1)
    if running.wait(1200):
        raise SystemExit("The command failed.")
    return encode_kernel(fs.Kernel.load(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    words = [f"a red apple on a white background, {index}" for index in range(given.prompts)]
    local = encode_kernel(fs.calibrate("emoji", words, num_inference_steps=given.steps))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text("\n".join(words))
        nodes = []
        try:
            build()
            nodes.append(start("foreseer-head", "--head", f"--port={PORT}", "--include-dashboard=false"))
            nodes.append(start("foreseer-other", f"--address={HEAD}:{PORT}"))
            for name, pull_after in (("undisturbed", None), ("cable pulled", 2)):
                began = time.perf_counter()
                kernel = calibrated(Path(folder) / f"{name.split()[0]}.kernel", prompts, given.steps, pull_after)
                seconds = time.perf_counter() - began
                rows.append({"run": name, "seconds": seconds, "equal to the local kernel": kernel == local})
        finally:
            end(nodes)
    write("two_nodes", f"python -m benchmarks.two_nodes --prompts {given.prompts} --steps {given.steps}", rows)
    if not all(row["equal to the local kernel"] for row in rows):
        raise SystemExit("A kernel differs.")


if __name__ == "__main__":
    main()
