"""What can be wrong with a request to run, resume or decide."""

from holdfast.checkpointing import HoldfastError


class UnknownThread(HoldfastError):
    """The database holds no thread of that name."""

    def __init__(self, thread_id: str) -> None:
        super().__init__(f"no thread {thread_id!r} in this database; `holdfast threads` lists them")


class UnknownGraph(HoldfastError):
    """The thread belongs to a graph that this command does not know."""


class ThreadExists(HoldfastError):
    """A new run was asked for under a name that is taken."""


class InvalidThread(HoldfastError):
    """The text cannot be a thread's name."""


class ThreadFinished(HoldfastError):
    """There is nothing left to do on the thread."""


class ApprovalPending(HoldfastError):
    """The thread waits for a person, so it cannot simply go on."""


class NotWaiting(HoldfastError):
    """A decision was given on a thread that does not wait for one."""


class NotInDoubt(HoldfastError):
    """A verdict was given on a call whose outcome is known, or that is being made."""

    def __init__(self, thread_id: str, effect_id: str) -> None:
        super().__init__(
            f"nothing named {effect_id!r} is in doubt on thread {thread_id!r}; "
            f"`holdfast doubts {thread_id}` lists what is"
        )


class NoSuchBudget(HoldfastError):
    """Limits were to be taken away that were never set."""

    def __init__(self, scope: str, unit: str) -> None:
        super().__init__(f"no limit in {unit} is set for {scope!r}; `holdfast budget list` shows those that are")


class NotOutstanding(HoldfastError):
    """A cost was given for a reservation that does not wait for one."""

    def __init__(self, reservation_id: str) -> None:
        super().__init__(
            f"no reservation {reservation_id!r} is outstanding; `holdfast budget outstanding` lists those that are"
        )


class NotPinned(HoldfastError):
    """A pin was to be taken away that nobody has set."""

    def __init__(self, tool: str, pattern: str | None) -> None:
        kind = f" ({pattern})" if pattern else ""
        super().__init__(f"{tool!r}{kind} is not pinned; `holdfast trust list` shows what is")


class NothingToTell(HoldfastError):
    """People are to be told of requests, and nobody is named."""

    def __init__(self) -> None:
        super().__init__(
            "nobody is named whom to tell: set HOLDFAST_WEBHOOK_URL and HOLDFAST_WEBHOOK_SECRET, or HOLDFAST_NOTIFY "
            "(see `holdfast notify --help`)"
        )


class InvalidPrice(HoldfastError):
    """The text says no price of a model."""


class DeliveryNotConfigured(HoldfastError):
    """The thread was started for delivery by SMTP, and this process has no server to deliver to."""


class RunFailed(HoldfastError):
    """A node failed; the thread is kept and can be resumed from there."""


class InvalidDecision(HoldfastError):
    """The decision holds something that cannot be used; nothing has been decided."""


class NotTogether(HoldfastError):
    """Requests were to be decided in one go, and one of them is to be looked at by itself."""

    def __init__(self, request_id: str, name: str) -> None:
        super().__init__(
            f"request {request_id!r} ({name}) may not be decided together with others; nothing was decided: "
            "decide it by itself"
        )


class NothingAsked(HoldfastError):
    """A decision was given on a thread of which no request waits."""

    def __init__(self, thread_id: str) -> None:
        super().__init__(
            f"no request of thread {thread_id!r} waits for a decision; `holdfast approvals` lists those that do"
        )


class NotTaken(HoldfastError):
    """Of several decisions some were refused; the others were taken."""

    def __init__(self, refusals: list[str]) -> None:
        super().__init__(f"{len(refusals)} were refused: {' | '.join(refusals)}")


class UnusableGraphs(HoldfastError):
    """A `langgraph.json`, or a graph that it names, cannot be run by a worker."""


class AlreadyQueued(HoldfastError):
    """The thread waits for a worker already."""

    def __init__(self, thread_id: str) -> None:
        super().__init__(f"thread {thread_id!r} waits for a worker already; `holdfast worker` starts one")


class UnreadableHeads(HoldfastError):
    """The file holds no heads of chains as `holdfast audit head --json` prints them."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(f"{file!r} holds no heads as `holdfast audit head --json` prints them ({why})")


class NotConfirmed(HoldfastError):
    """Something is to be removed for good, and there is nobody to ask."""

    def __init__(self) -> None:
        super().__init__(
            "prune removes threads for good, and there is no terminal to ask on: say --yes, "
            "or --dry-run to see which threads it would be"
        )
