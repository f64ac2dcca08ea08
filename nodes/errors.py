"""What can go wrong in a node, by name."""

from ..checkpointing.errors import HoldfastError


class DossierNotFound(HoldfastError):
    """The dossier is not a folder that can be read."""


class DossierNotAllowed(HoldfastError):
    """The dossier lies outside the folder to which this deployment confines dossiers."""


class DossierEmpty(HoldfastError):
    """The folder holds no document that could be read."""


class InvalidBrief(HoldfastError):
    """The run's input lacks something, or something in it cannot be used."""


class NoEvidence(HoldfastError):
    """Not one of the chosen quotations stands in the dossier."""


class UnsupportedQuote(HoldfastError):
    """The draft quotes words or cites numbers that the evidence does not hold."""


class UnknownModel(HoldfastError):
    """No such model, or its provider needs a package or a key that is not there."""


class DeliveryFailed(HoldfastError):
    """The message could not be handed over; it has not been marked as sent."""


class TooManyModelCalls(HoldfastError):
    """A node's agent called its model as often as it may and had not answered yet."""
