"""Keeps documents, and finds the chunks of them that answer a question, with citations.

Calls Triton (the embedder) and Milvus, which holds all it owns: collections, documents, chunks and their vectors.
It never calls another service of ours, never decides what an answer says, and never shows one tenant, or one user of
a collection with scope USER, what another wrote.
"""
