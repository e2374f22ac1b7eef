"""Reading lists of a million lines, and looking into them, in C (native/). Twins: `tidewaiter.lists.reference`."""

Bytes = bytes | bytearray | memoryview
Shape = tuple[bytes, bytes, int, bool]
"""Text before a name, text behind it, flags of its record, whether one label will do."""
Odd = list[tuple[int, int, int]]
"""Lines handed back: number, offset, length in bytes."""

def scan_names(
    text: bytes,
    start: int,
    line: int,
    limit: int,
    shapes: tuple[Shape, ...],
    comments: bytes,
    inline_comments: bytes,
    records: bytearray,
    /,
) -> tuple[int, int, int, Odd]:
    """Appends a record for each line that has one of the shapes; stops behind ``limit`` odd lines.

    ``line`` is how many lines came before ``start``. ``comments`` are the characters that make a line a comment
    when they are its first, ``inline_comments`` those that begin one behind an entry. Returns the number of records,
    where it stopped, the number of the last line, and the odd lines. Raises ValueError, MemoryError.
    """

def scan_networks(
    text: bytes,
    start: int,
    line: int,
    limit: int,
    flags: int,
    comments: bytes,
    inline_comments: bytes,
    records4: bytearray,
    records6: bytearray,
    /,
) -> tuple[int, int, Odd]:
    """The same for lines that are an address or a network."""

def index(records: bytearray, slots: bytearray, key: bytes, /) -> tuple[int, int, int]:
    """Fills a hash table with the places of records, and moves together those that are there once.

    ``slots`` are zeros, five bytes each, a power of two; the key has 16 bytes. Returns the number of names, and two
    masks in which bit n says that there are names, or zones, of n labels (63: and more). Raises ValueError.
    """

def find(image: Bytes, name: str, /) -> int:
    """The flags that a set of names has for a name: those of all its zones, or of the nearest, as its trailer says.

    -1 for what is no name in ASCII. Raises ValueError for what is no set, UnicodeError for lone surrogates.
    """

def flatten(records: bytearray, width: int, /) -> bytearray:
    """Sorts records of networks (addresses of ``width`` bytes), and makes ranges of what they list.

    All first addresses, then all last ones. Raises ValueError, MemoryError.
    """

def inside(ranges: Bytes, packed: bytes, /) -> bool:
    """Whether an address is in one of the ranges. Raises ValueError."""
