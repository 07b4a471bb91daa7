"""The one exception that a user is meant to read."""

from bdf_jax.names import legible


class BdfError(Exception):
    """Something the user can mend: it names the thing, what was expected, what was found, what to do.

    The command line prints its message without a traceback and exits with a code other than 0; in a
    notebook it is an ordinary exception. Names in it that no encoding takes are escaped.
    """

    exit_code = 1

    def __init__(self, message: object = "", *more: object):
        super().__init__(legible(str(message)), *more)
