"""Things named in a text. A module per kind of thing, `spans.py` settles overlaps, `extract.py` puts them together."""
