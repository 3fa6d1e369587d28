"""Build wheel and sdist and try the installed wheel: ``python -m tests.packaging.smoke``.

The wheel is built from the sdist, so both are complete or neither is. It is installed into a fresh environment without
extras, where the core must work and must not find torch, and then tried again with what pipelines need: with
``--extras`` pip installs these extras; without, the packages of the environment that runs this are put behind the
wheel, which costs nothing to download.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = """
import importlib.util, pathlib, sys
import foreseer as fs
assert importlib.util.find_spec("torch") is None, "the core found torch"
assert "site-packages" in fs.__file__, fs.__file__
plan = fs.methods.find("taylorseer").policy(steps=28, nfe=8).compile(fs.Grid.uniform(28))
plan.save("eight.plan.safetensors")
assert fs.Plan.load("eight.plan.safetensors") == plan and plan.nfe == 8
kernel = fs.Kernel.load(fs.zoo.kernel_path())
assert len(fs.schedule.Optimal(kernel, 9).on(kernel.grid)) == 9
assert pathlib.Path(fs.__file__).with_name("py.typed").exists()
"""
CORE_COMMANDS = ("--version", "methods", "plan explain spectrum --nfe 10", "plan explain eight.plan.safetensors")
PIPELINE = """
import foreseer as fs
assert "site-packages" in fs.__file__, fs.__file__
pipe = fs.zoo.load()
options = {"num_inference_steps": 12, "height": 64, "width": 64, "max_sequence_length": 16}
with fs.accelerate(pipe, fs.methods.find("taylorseer").policy(steps=12, nfe=5)) as handle:
    image = pipe("a red apple on a blue background", **options).images[0]
assert image.size == (64, 64) and handle.record.nfe == 5, handle.record
"""
PIPELINE_COMMANDS = ('generate emoji --prompt "a red apple" --steps 8 --method taylorseer --nfe 4 --out apple.png',)


def build(out: Path) -> Path:
    """The wheel, built from the sdist; both lie in ``out``."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, ROOT], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = out.glob("*.whl")
    (_,) = out.glob("*.tar.gz")
    return wheel


def missing_files(wheel: Path) -> list[str]:
    """The package's files in the checkout that the wheel lacks."""
    source = ROOT / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in (source / "foreseer").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(files - set(zipfile.ZipFile(wheel).namelist()))


class Environment:
    """A fresh virtual environment, and an empty folder to run in."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / "bin"
        self.work = folder / "work"
        self.work.mkdir()

    def install(self, requirement: str) -> None:
        """Install within this repository's pins."""
        pip = [self.bin / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
        subprocess.run([*pip, requirement], check=True)

    def borrow(self, packages: str) -> None:
        """Put another environment's packages behind this one's."""
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        here = subprocess.run([self.bin / "python", "-c", code], check=True, capture_output=True, text=True).stdout
        Path(here.strip(), "borrowed.pth").write_text(packages + "\n")

    def check(self, code: str, commands: tuple[str, ...]) -> None:
        """Run code and commands; isolated, so that neither the checkout nor PYTHONPATH is seen."""
        subprocess.run([self.bin / "python", "-I", "-c", code], check=True, cwd=self.work)
        for command in commands:
            line = f"'{self.bin}/python' -I -m foreseer {command}"
            subprocess.run(line, shell=True, check=True, cwd=self.work, stdout=subprocess.DEVNULL)


def main() -> int:
    """The exit status; every failed step raises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder to leave wheel and sdist in")
    parser.add_argument("--extras", help="install these extras instead of borrowing this environment's packages")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder, "dist")
        wheel = build(out)
        if missing := missing_files(wheel):
            print(f"The wheel lacks {', '.join(missing)}.", file=sys.stderr)
            return 1
        environment = Environment(Path(folder))
        environment.install(str(wheel))
        environment.check(CORE, CORE_COMMANDS)
        print(f"{wheel.name}: the core works without torch")
        if options.extras:
            environment.install(f"{wheel}[{options.extras}]")
        else:
            environment.borrow(sysconfig.get_path("purelib"))
        environment.check(PIPELINE, PIPELINE_COMMANDS)
        print(f"{wheel.name}: draws the bundled pipeline")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
