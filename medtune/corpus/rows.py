"""What makes two rows the same row."""

import hashlib
import json
import unicodedata


def fold(text: str) -> str:
    """NFC, every run of white space one space, none at the ends: what a reader would call the same text."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def row_id(messages: list[dict]) -> str:
    """sha256 (64 hex) of the folded text of all messages with their roles.

    `messages`: {"role", "content"} and, on a user's message, perhaps "input". An empty input counts as none. The text
    is hashed as JSON, so that no content can imitate a border between messages, and in ASCII, so that half a
    surrogate pair (legal in JSON, not in UTF-8) has an identity too.
    """
    turns = []
    for message in messages:
        turn = [message["role"], fold(message["content"])]
        if extra := fold(message.get("input") or ""):
            turn.append(extra)
        turns.append(turn)
    return hashlib.sha256(json.dumps(turns).encode("ascii")).hexdigest()
