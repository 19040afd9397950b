"""What scripts turn into a sentence."""


class UserError(Exception):
    """Something the user can mend: its message is one sentence that names the culprit and says what to do.

    Scripts print the sentence without a traceback and exit with status 2.
    """


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether main memory has run out: torch has no class for it."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "t allocate memory" in str(error))
