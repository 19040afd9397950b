"""The one exception that scripts turn into a sentence."""


class UserError(Exception):
    """Something the user can mend: its message is one sentence that names the culprit and says what to do.

    Scripts print the sentence without a traceback and exit with status 2.
    """
