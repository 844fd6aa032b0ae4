"""``python -m headsculpt`` is the ``headsculpt`` command."""

from headsculpt.cli import main

if __name__ == "__main__":
    main()
