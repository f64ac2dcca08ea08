"""The root of every error that Holdfast raises, and those of the database floor."""

from typing import Final


class HoldfastError(Exception):
    """Base of all Holdfast errors. Its text says what was wrong, where, and what to do."""


class MissingExtra(HoldfastError):
    """An optional part of Holdfast was asked for and its packages are not installed."""

    def __init__(self, extra: str, purpose: str, *, instead: str = "") -> None:
        self.extra: Final = extra
        advice = f", or {instead}" if instead else ""
        super().__init__(f"{purpose} needs an extra: pip install 'holdfast[{extra}]'{advice}")


class InvalidDatabaseURI(HoldfastError):
    """The database URI cannot be parsed as a Postgres connection string."""


class DatabaseUnavailable(HoldfastError):
    """The database cannot be reached, or went away in the middle of an operation."""


class DatabaseClosed(HoldfastError):
    """A `Database` was used after its end, or in a process forked from the one that opened it."""


class EmbeddedPostgresFailed(HoldfastError):
    """The embedded Postgres could not be started in the folder it was given."""


class ThreadBusy(HoldfastError):
    """Another process, or another run in this one, is running this thread at this moment."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id: Final = thread_id
        super().__init__(
            f"thread {thread_id!r} is being run by another process or run; wait for it to pause or end, then try again"
        )


class ThreadBegun(HoldfastError):
    """A run was to begin a thread, and somebody else had begun it."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id: Final = thread_id
        super().__init__(f"thread {thread_id!r} was begun meanwhile; load it and go on from what is there")


class LeaseLost(HoldfastError):
    """A run stood still for so long that another worker has taken, or may have taken, its thread over."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id: Final = thread_id
        super().__init__(
            f"this run of thread {thread_id!r} has lost its lease: another worker may have gone on with the thread; "
            "nothing more of this run is saved, load the thread to see where it stands"
        )


class ThreadChanged(HoldfastError):
    """A thread was deleted, or what a run stood on was removed, while the run went on."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id: Final = thread_id
        super().__init__(
            f"what this run of thread {thread_id!r} stands on was removed meanwhile; "
            "load the thread and go on from what is there"
        )


class UnknownDocument(HoldfastError):
    """The dossier holds no document of that name."""

    def __init__(self, name: str, known: list[str]) -> None:
        self.name: Final = name
        self.known: Final = known
        super().__init__(f"no document named {name!r} in this dossier; it holds: {', '.join(known) or 'nothing'}")
