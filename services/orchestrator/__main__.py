"""`python -m services.orchestrator`."""

from services.kit import serve
from services.orchestrator import app
from services.orchestrator.config import Config

if __name__ == "__main__":
    serve.main("orchestrator", Config, app.build)
