"""``python -m vzkubelet`` is the console script."""

from vzkubelet.cli import main

if __name__ == "__main__":
    main()
