"""Which script an interpreter runs, from its command line: a table of each interpreter's options.

Rules accept by it, so that a guess would be a forgery: ``python3 -W ok.py evil.py`` runs evil.py. What an interpreter
makes of its command line is in its manual page and its source (getopt.c of Python, perl.c, bash's shell.c).
An option that is in no table here, or that has other code run (``-c``, ``-i``, standard input), gives "": not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

RECORDED = 512
"""Bytes of a command line that the kernel's record holds: TW_ARGUMENTS of kernel/types.h."""


class _Takes(Enum):
    """What comes behind an option."""

    NOTHING = auto()
    REST = auto()
    """A value, or none, in the same argument."""
    VALUE = auto()
    """A value: the rest of the argument, or the next one if nothing is left."""
    NEXT = auto()
    """A value: the next argument, always."""
    MODULE = auto()
    """A module to run, written as a `VALUE`."""
    SCRIPT = auto()
    """The script, whatever it looks like."""


_Options = dict[str, _Takes]


@dataclass(frozen=True, slots=True)
class _Interpreter:
    """``letters`` are the options that may stand together behind one sign, ``words`` the others with their signs.

    ``starts`` are beginnings of words that carry their value; ``signs`` is what options begin with, ``command`` a word
    that may stand before the script.
    """

    letters: _Options = field(default_factory=dict)
    words: _Options = field(default_factory=dict)
    starts: tuple[str, ...] = ()
    signs: str = "-"
    command: str = ""


def _letters(nothing: str, value: str = "", rest: str = "") -> _Options:
    return {
        **dict.fromkeys(nothing, _Takes.NOTHING),
        **dict.fromkeys(value, _Takes.VALUE),
        **dict.fromkeys(rest, _Takes.REST),
    }


def _words(nothing: str = "", value: str = "", script: str = "--") -> _Options:
    return {
        **dict.fromkeys(nothing.split(), _Takes.NOTHING),
        **dict.fromkeys(value.split(), _Takes.NEXT),
        **dict.fromkeys(script.split(), _Takes.SCRIPT),
    }


_PYTHON = _Interpreter(
    _letters("bBdEIOPqRsStuvx", value="WXQ") | {"m": _Takes.MODULE},
    _words(value="--check-hash-based-pycs"),
)
_SHELL = _Interpreter(
    _letters("aCefhlmnuvx") | dict.fromkeys("o", _Takes.NEXT), _words(script="- --"), signs="-+"
)
_BASH = _Interpreter(
    _letters("abBCeEfhHklmnpPrtTuvx") | dict.fromkeys("oO", _Takes.NEXT),
    _words(
        "--debug --login --noediting --noprofile --norc --posix --restricted --verbose",
        "--rcfile --init-file",
        "- --",
    ),
    signs="-+",
)
_NODE = _Interpreter(
    _letters("", value="rC"),
    _words(
        "--abort-on-uncaught-exception --enable-source-maps --experimental-modules --expose-gc"
        " --experimental-vm-modules --harmony --inspect --inspect-brk --jitless --max-old-space-size"
        " --max_old_space_size --max-semi-space-size --no-deprecation --no-warnings --pending-deprecation"
        " --preserve-symlinks --stack-size --throw-deprecation --trace-deprecation --trace-uncaught"
        " --trace-warnings --use-openssl-ca",
        "--conditions --disable-proto --dns-result-order --experimental-loader --icu-data-dir --import --inspect-port"
        " --loader --max-http-header-size --require --title --unhandled-rejections",
    ),
)
_JAVA = _Interpreter(
    {},
    _words(
        "-jar -server -client -ea -da -esa -dsa --enable-preview --show-version -showversion",
        "-cp -classpath --class-path -p --module-path --upgrade-module-path --add-modules --add-opens"
        " --add-exports --add-reads --enable-native-access --limit-modules --source",
        script="",
    ),
    starts=("-D", "-X", "-ea:", "-da:", "-verbose:", "-javaagent:", "-agentlib:", "-agentpath:"),
    signs="-@",
)
_INTERPRETERS = {
    "python": _PYTHON,
    "pypy": _PYTHON,
    "sh": _SHELL,
    "dash": _SHELL,
    "zsh": _SHELL,
    "ksh": _SHELL,
    "bash": _BASH,
    "node": _NODE,
    "nodejs": _NODE,
    "java": _JAVA,
    "perl": _Interpreter(_letters("0123456789acfglnpsStTuUwWX", value="ImM", rest="CFix"), _words()),
    "ruby": _Interpreter(
        _letters("0123456789acdlnpsSUvwWy", value="CEIrX", rest="Fix"),
        _words("--debug --disable-gems --jit --verbose --yjit"),
        starts=(
            "-W:",
            "--disable=",
            "--enable=",
            "--encoding=",
            "--external-encoding=",
            "--internal-encoding=",
        ),
    ),
    "php": _Interpreter(_letters("CeHnq", value="cdz"), _words("--no-php-ini", "--php-ini --define", "")),
    "lua": _Interpreter(_letters("EvW", value="l"), _words()),
    "fish": _Interpreter(_letters("lNP"), _words("--login --no-config --private")),
    "tclsh": _Interpreter(),
    "guile": _Interpreter({}, _words("-q --no-auto-compile --auto-compile", "-L -C -l -x", "-s")),
    "Rscript": _Interpreter({}, _words("--vanilla --verbose", script="")),
    "deno": _Interpreter({}, _words("-A -q --allow-all --allow-net --allow-read --quiet"), command="run"),
    "bun": _Interpreter({}, _words("--hot --silent --watch"), command="run"),
}


def script_of(path: str, arguments: tuple[str, ...]) -> str:
    """What an interpreter runs: a file as it was named, or ``-m MODULE``.

    "" for another program, a one-liner, and where the command line does not say it for sure.
    """
    interpreter = _INTERPRETERS.get(path.rpartition("/")[2].rstrip("0123456789."))
    if interpreter is None:
        return ""
    at, module = _find(interpreter, arguments)
    if not 0 < at < len(arguments) or (at == len(arguments) - 1 and _may_be_cut(arguments)):
        return ""
    if module:
        return f"-m {module}"
    return "" if _is_misleading(arguments[at]) else arguments[at]


def _find(interpreter: _Interpreter, arguments: tuple[str, ...]) -> tuple[int, str]:
    """The place of the script or of the module, 0 if it is not known; and the module."""
    signs, command, at = interpreter.signs, interpreter.command, 1
    while at < len(arguments):
        argument = arguments[at]
        if argument[:1] not in signs:
            if not command or argument != command:
                return at, ""
            command, at = "", at + 1
            continue
        takes, rest = _option(interpreter, argument)
        if takes is _Takes.SCRIPT:
            return at + 1, ""
        if takes in (_Takes.NOTHING, _Takes.REST) or (takes is _Takes.VALUE and rest):
            at += 1
        elif takes is _Takes.MODULE and rest:
            return at, rest
        elif takes is None or at + 1 == len(arguments) or arguments[at + 1][:1] in signs:
            return 0, ""  # some take an option for a value, others do not; java reads more from @FILE
        elif takes is _Takes.MODULE:
            return at + 1, arguments[at + 1]
        else:
            at += 2
    return 0, ""


def _option(interpreter: _Interpreter, argument: str) -> tuple[_Takes | None, str]:
    """What an argument that is one option or several takes, and what is left of it for that; None: not known."""
    word, sign, _ = argument.partition("=")
    if takes := interpreter.words.get(word):
        return takes if not sign else None if takes is _Takes.SCRIPT else _Takes.NOTHING, ""
    if argument.startswith(interpreter.starts):
        return _Takes.NOTHING, ""
    if any(map(str.isspace, argument)):  # perl goes on with options behind a blank
        return None, ""
    takes = None
    for place, letter in enumerate(argument[1:], 2):
        takes = interpreter.letters.get(letter)
        if takes is not _Takes.NOTHING:
            rest = argument[place:]
            # some shells take the rest for the value of -o, others the next argument
            return None if rest and takes is _Takes.NEXT else takes, rest
    return takes, ""


def _may_be_cut(arguments: tuple[str, ...]) -> bool:
    """Whether the last argument may be a beginning only: the record holds no more than that."""
    return len("\0".join(arguments).encode(errors="surrogateescape")) >= RECORDED


def _is_misleading(script: str) -> bool:
    """Whether a file's name looks like a module, or like a directory that it leads out of (/srv/jobs/../evil)."""
    return script.startswith("-") or "/../" in f"{script.lstrip('./')}/"
