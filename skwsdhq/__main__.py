"""Run the command line by ``python -m skwsdhq``."""

from .cli import main

if __name__ == "__main__":
    main()
