"""Lists of names and networks, as people publish them: a million of the one, half a million of the other.

`Reader` takes the bytes of a list in one of the `FORMATS` (hosts file, plain domains or zones, AdBlock, RPZ,
dnsmasq, networks) and makes a `CompiledList`, which answers `contains_name` and `contains_address` within a
microsecond; `Union` is several of them, `dump` and `load` are its form in a file. Nothing here does I/O. The native
module (`native/`) reads the common lines and looks names up; `reference` is its twin in Python, and `formats` says what
lines mean. It may import `tidewaiter.model` only.
"""

from tidewaiter.lists.compiled import CompiledList, Counts, dump, load
from tidewaiter.lists.domains import DomainSet
from tidewaiter.lists.entry import ListError, NameEntry, NetworkEntry, Say
from tidewaiter.lists.formats import FORMATS, Format
from tidewaiter.lists.names import canonical
from tidewaiter.lists.networks import NetworkSet
from tidewaiter.lists.reader import Reader
from tidewaiter.lists.union import Union

__all__ = [
    "FORMATS",
    "CompiledList",
    "Counts",
    "DomainSet",
    "Format",
    "ListError",
    "NameEntry",
    "NetworkEntry",
    "NetworkSet",
    "Reader",
    "Say",
    "Union",
    "canonical",
    "dump",
    "load",
]
