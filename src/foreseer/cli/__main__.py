"""``python -m foreseer.cli``."""

from foreseer.cli import main

main()
