"""Fits intent heads from an agent's examples. Only the trainer imports this: serving needs no scikit-learn."""
