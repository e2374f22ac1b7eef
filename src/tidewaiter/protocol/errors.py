"""What can go wrong on the wire, split by who must act."""

from __future__ import annotations


class ProtocolError(Exception):
    """Base of the errors here. Its text is one sentence, fit to be shown or logged."""


class LocalProtocolError(ProtocolError):
    """This side tried to say what the wire cannot carry; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the wire does not allow."""


class CommandError(RemoteProtocolError):
    """The bytes are not a command. The driver logs the sentence and changes nothing."""
