"""What people wrote, made safe to print on a line of a terminal."""


def plain(text: object) -> str:
    """On one line: no line ends, no control or direction characters that a terminal would obey."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())
