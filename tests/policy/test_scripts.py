"""Which script an interpreter runs: options that take values, several in one, and what nobody may guess."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from test_house import SOURCE
from tidewaiter.policy.scripts import RECORDED, script_of

OK, EVIL = "/srv/ok.py", "/srv/evil.py"


def of(line: str) -> str:
    """The script of a command line; the interpreter is its first word."""
    arguments = tuple(shlex.split(line))
    return script_of(f"/usr/bin/{arguments[0]}", arguments)


@pytest.mark.parametrize(
    ("line", "script"),
    [
        ("python3.11 /srv/job.py -x", "/srv/job.py"),
        ("python3 job.py", "job.py"),
        ("python3 -m http.server 80", "-m http.server"),
        ("python3 -Im http.server", "-m http.server"),
        ("python3 -mhttp.server", "-m http.server"),
        ("python3 -W ignore ok.py", "ok.py"),
        ("python3 -Wignore -uX dev -bb ok.py", "ok.py"),
        ("python3 --check-hash-based-pycs always ok.py", "ok.py"),
        ("python3 -u -- ok.py", "ok.py"),
        ("bash -eu -o pipefail +x ok.sh", "ok.sh"),
        ("bash -euo pipefail ok.sh", "ok.sh"),
        ("bash --norc --rcfile F -O extglob ok.sh", "ok.sh"),
        ("sh - ok.sh", "ok.sh"),
        ("dash -- ok.sh", "ok.sh"),
        ("perl -w -I lib -Ilib -MJSON -0777 -i.bak ok.pl", "ok.pl"),
        ("node --require y x.js", "x.js"),
        ("node -r y --import=z --max-old-space-size=4096 x.js", "x.js"),
        ("ruby -I lib -rjson -W0 --encoding=utf-8 ok.rb", "ok.rb"),
        ("php -d memory_limit=1G -n ok.php", "ok.php"),
        ("lua5.4 -l json ok.lua", "ok.lua"),
        ("java -Xmx1g -Da=b -cp lib -jar /srv/app.jar -x", "/srv/app.jar"),
        ("java -cp lib org.example.Main", "org.example.Main"),
        ("guile -L lib -s ok.scm", "ok.scm"),
        ("deno run --allow-net=a.example ok.ts", "ok.ts"),
        ("bun ok.ts", "ok.ts"),
        ("python3 ../ok.py", "../ok.py"),
    ],
)
def test_scripts(line: str, script: str) -> None:
    assert of(line) == script


@pytest.mark.parametrize(
    ("line", "script"),
    [
        (f"python3 -W {OK} {EVIL}", EVIL),
        (f"python3 -X {OK} {EVIL}", EVIL),
        (f"python3 -uW {OK} {EVIL}", EVIL),
        (f"bash --rcfile {OK} {EVIL}", EVIL),
        (f"bash +o {OK} {EVIL}", EVIL),
        (f"perl -I {OK} {EVIL}", EVIL),
        (f"deno run run {OK}", "run"),
        (f"python3 -uc {OK}", ""),
        (f"python3 - {OK}", ""),
        (f"python3 -i {OK}", ""),  # more comes from standard input
        (f"python3 --unheard-of {OK}", ""),
        (f"python3 -- '-m http.server' {OK}", ""),
        (f"bash -o {OK}", ""),
        (f"bash --init-file {OK} -i", ""),
        (f"bash -s {OK}", ""),
        (f"bash -noprofile {EVIL} x {OK}", ""),
        (f"bash -rcfile x {OK}", ""),
        (f"ksh -o -s {OK}", ""),
        (f"zsh -b -x {OK}", ""),
        (f"perl -le {OK}", ""),
        (f"perl -0777ne {OK}", ""),
        (f"perl '-i -eevil' {OK}", ""),
        (f"perl -m {OK}", ""),
        (f"ruby -Kue x {OK}", ""),
        (f"ruby -0e x {OK}", ""),
        (f"php -- {OK}", ""),
        (f"java -cp @more {OK}", ""),
        (f"java @more {OK}", ""),
        (f"guile -s -q {OK}", ""),
        (f"lua -e x {OK}", ""),
        (f"curl {OK}", ""),
        ("python3 /srv/jobs/../evil.py", ""),
        ("python3 jobs/..", ""),
        ("python3 ''", ""),
        ("python3", ""),
        ("bash", ""),
    ],
)
def test_no_other_script_passes_for_one(line: str, script: str) -> None:
    assert of(line) == script


def test_nothing_is_known() -> None:
    assert script_of("", ()) == script_of("/usr/bin/python3", ()) == ""


def test_a_command_line_that_may_be_cut() -> None:
    """The record ends after so many bytes: /srv/ok.py may go on."""
    header = (SOURCE / "tidewaiter/kernel/types.h").read_text()
    assert re.findall(r"#define TW_ARGUMENTS (\d+)", header) == [str(RECORDED)]
    room = RECORDED - len(f"python3\0-W\0\0{OK}\0")
    assert script_of("/usr/bin/python3", ("python3", "-W", "x" * room, OK)) == OK
    assert script_of("/usr/bin/python3", ("python3", "-W", "x" * (room + 1), OK)) == ""
    assert script_of("/usr/bin/python3", ("python3", OK, "x" * RECORDED)) == OK


@pytest.mark.parametrize(
    "line",
    [
        "python3 -W ignore F", "python3 -uX dev F", "python3 -- F", "python3 --check-hash-based-pycs always F",
        "bash -euo pipefail F", "bash --rcfile /dev/null +x F", "bash -O extglob F", "bash - F",
        "dash -o errexit F", "dash -eu -- F", "perl -I lib -w F", "perl -0777 -l F", "perl -i.bak F",
    ],
)  # fmt: skip
def test_interpreters_take_it_so(line: str, tmp_path: Path) -> None:
    """The file that the real interpreter opens is the one that is told."""
    script = tmp_path / "script"
    script.write_text("import sys; print('ran')" if line.startswith("python") else "print 'ran'\n")
    if line.startswith(("bash", "dash")):
        script.write_text("echo ran\n")
    name, *rest = shlex.split(line.replace("F", str(script)))
    program = sys.executable if name == "python3" else shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    assert script_of(f"/usr/bin/{name}", (name, *rest)) == str(script)
    finished = subprocess.run([program, *rest], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "ran"
