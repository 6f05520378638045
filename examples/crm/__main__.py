"""`python -m examples.crm`: serves until it is told to stop."""

import argparse
import logging
import signal
import sys
from datetime import UTC, date, datetime

from examples.crm.server import serve


def main() -> None:
    """Reads the command line and serves; SIGTERM and Ctrl-C end it at once."""
    parser = argparse.ArgumentParser(prog="python -m examples.crm", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7180)
    parser.add_argument("--today", type=date.fromisoformat, help="day the orders are told for (default: today, UTC)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with serve(arguments.host, arguments.port, lambda: arguments.today or datetime.now(UTC).date()) as server:
        logging.getLogger(__name__).info("listening on %s:%d", *server.server_address[:2])
        server.serve_forever()


if __name__ == "__main__":
    main()
