"""What the events of a run say."""


def counted(events):
    """The answer as a client puts it together: the text deltas that were not discarded."""
    pieces = []
    for event in events:
        if event.HasField("text_delta"):
            pieces.append((event.sequence, event.text_delta.text))
        elif event.HasField("restarted"):
            pieces = [piece for piece in pieces if piece[0] < event.restarted.discard_from_sequence]
    return "".join(text for _, text in pieces)
