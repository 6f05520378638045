"""Puts past tool calls into words a very small model can use: it was never shown tools, and takes JSON for a format.

A result is told as the answer that was given to the user's question, then once more in one sentence, and the question
is put again: the model then says the same in its own voice, and stops. Results that an answer followed already are
left to that answer.
"""

import json
import re


def retell(messages, plain):
    """Returns the conversation without tool calls.

    Args:
        messages: the messages of the request, checked.
        plain: the same as role and text.
    """
    told, results, question = [], [], None
    for message, text in zip(messages, plain, strict=True):
        if message["role"] == "tool":
            results.append(sentences(text["content"]))
        elif not message.get("tool_calls"):
            if results and message["role"] != "assistant":
                told.append({"role": "assistant", "content": " ".join(results)})
            results = []
            told.append(text)
            question = text if message["role"] == "user" else question
    if results:
        whole = " ".join(results)
        told += _exchange(whole, "In one sentence?", re.split(r"(?<=[.!?])\s", whole, maxsplit=1)[0])
        told += [question] if question else []
    return told


def _exchange(answer, question, next_answer):
    return [
        {"role": "assistant", "content": answer},
        {"role": "user", "content": question},
        {"role": "assistant", "content": next_answer},
    ]


def sentences(result):
    """Returns a tool's result in words: its own sentences where it has some, else each value under its name.

    Args:
        result: JSON as text; what is none is returned as it is.
    """
    try:
        value = json.loads(result)
    except ValueError:
        return result
    if not isinstance(value, dict):
        return _sentence(_words(value))
    if isinstance(value.get("error"), str):
        return _sentence(value["error"])
    own = [each for each in value.values() if isinstance(each, str) and each.endswith((".", "!", "?")) and " " in each]
    return " ".join(own or [f"The {name.replace('_', ' ')} is {_words(each)}." for name, each in value.items()])


def _sentence(text):
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


def _words(value):
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
