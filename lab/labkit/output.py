"""What the user reads."""


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)
