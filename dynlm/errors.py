"""The errors a user can cause: one line each, and exit code 2 at the command line."""


class UserError(Exception):
    """Something the user can mend. The message says in one line what is wrong, where, and what to do."""

    def __init__(self, what: str, where: object = None, do: str | None = None):
        message = f"{where}: {what}" if where is not None else what
        if do:
            message = f"{message}; {do}"
        super().__init__(" ".join(message.split()))
