"""Understands what people write: ranked intents, entities, complexity, language, and the embedding of the utterance.

Calls Triton (the embedder, once for an utterance) and memory (the agent whose intents and entities count).
It never writes: intent models are made by `python -m services.nlu.train`, and a revision of an agent finds its own
model by the digest of its examples. It never calls a language model.
"""
