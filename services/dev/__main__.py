"""`python -m services.dev` is `myriad`."""

from services.dev.cli import main

if __name__ == "__main__":
    main()
