"""``python -m vidclf``."""

from vidclf.cli.app import main

if __name__ == "__main__":
    main()
