"""What a turn is about, in plain types: the words the decisions and the ports share."""
