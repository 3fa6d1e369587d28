"""``python -m foreseer``: the command line."""

from foreseer.cli import main

if __name__ == "__main__":
    main()
