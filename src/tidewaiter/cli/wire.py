"""``tidewaiter wire``: the bytes between driver and owner as JSON lines, and back."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, cast

import click

from tidewaiter.cli.help import HELP
from tidewaiter.protocol import command, info, text
from tidewaiter.protocol.errors import ProtocolError
from tidewaiter.protocol.stream import InfoDecoder

_CHUNK = 1 << 16  # bytes asked of the input at a time

_KINDS = click.Choice(["info", "command"])


@click.group(context_settings=HELP)
def wire() -> None:
    """Read and write the protocol between the driver and its owner.

    Infos go from the driver to the owner, commands from the owner to the driver. Both are bytes on the
    wire and JSON here, one object a line; docs/reference/wire.md describes them.
    """


@wire.command(context_settings=HELP)
@click.argument("kind", type=_KINDS)
@click.argument("file", type=click.File("rb"), default="-")
def decode(kind: str, file: BinaryIO) -> None:
    """Print the infos or commands in FILE (or standard input) as JSON lines.

    An info that cannot be read is a line too, with the reason. Input that ends in the middle, or a
    command that is none, ends with an error and status 1.

    \b
    Example: what does this command say?
      printf '\\001\\007\\0\\0\\0\\0\\0\\0\\0\\003' | tidewaiter wire decode command
      {"type": "Verdict", "id": 7, "verdict": 3}
    """
    output = sys.stdout.buffer
    try:
        for lines in _DECODERS[kind](_chunks(file)):
            output.write(lines.encode("ascii"))
            output.flush()
    except ProtocolError as error:
        raise click.ClickException(str(error)) from None


@wire.command(context_settings=HELP)
@click.argument("kind", type=_KINDS)
@click.argument("file", type=click.File("rb"), default="-")
def encode(kind: str, file: BinaryIO) -> None:
    """Write the JSON lines of FILE (or standard input) as infos or commands: what decode printed.

    A line that is wrong ends with an error that names it, and status 1; the lines before it are written.

    \b
    Example: the bytes of a command
      echo '{"type": "ClearCache"}' | tidewaiter wire encode command | xxd
    """
    output = sys.stdout.buffer
    convert = _ENCODERS[kind]
    for number, line in enumerate(file, 1):
        try:
            output.write(convert(line))
        except ProtocolError as error:
            raise click.ClickException(f"Line {number}: {error}") from None
    output.flush()


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    # read1 returns what a pipe has so far, so that a live stream is shown as it comes.
    reader = cast("io.BufferedIOBase", file)
    return iter(lambda: reader.read1(_CHUNK), b"")


def _decode_infos(chunks: Iterator[bytes]) -> Iterator[str]:
    decoder = InfoDecoder()
    for chunk in chunks:
        yield "".join(text.format_info(one) + "\n" for one in decoder.feed(chunk))
    decoder.close()


def _decode_commands(chunks: Iterator[bytes]) -> Iterator[str]:
    decoder = command.CommandDecoder()
    for chunk in chunks:
        for one in decoder.feed(chunk):
            yield text.format_command(one) + "\n"
    decoder.close()


_DECODERS: Mapping[str, Callable[[Iterator[bytes]], Iterator[str]]] = {
    "info": _decode_infos,
    "command": _decode_commands,
}
_ENCODERS: Mapping[str, Callable[[bytes], bytes]] = {
    "info": lambda line: info.encode(text.parse_info(line)),
    "command": lambda line: command.encode(text.parse_command(line)),
}
