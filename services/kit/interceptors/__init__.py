"""What every call passes through: one concern a file. Their order, with reasons, is in `services/kit/app.py`."""
