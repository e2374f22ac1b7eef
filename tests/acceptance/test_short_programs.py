"""A thousand programs a second that live less than 5 ms: every connection names the right executable."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from acceptance.harness import guard
from livelab import eventually, scope_of
from tidewaiter import Connection, Firewall, Verdict
from tidewaiter.lab import plan
from tidewaiter.lab.world import World

pytestmark = pytest.mark.live

HOW_MANY = 2000
_COPIES = 20
_RATE = 1000  # programs a second
_LIFE = 5_000_000  # ns

_SHORT = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
/* KIND ADDRESS: connects, says a byte, prints its process id and port, and is gone */
int main(int count, char **word)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(7) };
	socklen_t length = sizeof(to);
	char line[64];
	int s = socket(AF_INET, strcmp(word[1], "tcp") ? SOCK_DGRAM : SOCK_STREAM, 0);

	inet_pton(AF_INET, word[2], &to.sin_addr);
	if (strcmp(word[1], "sendto")) {
		if (connect(s, (void *)&to, sizeof(to)) || write(s, "x", 1) != 1)
			return 1;
	} else if (sendto(s, "x", 1, 0, (void *)&to, sizeof(to)) != 1) {
		return 1;
	}
	getsockname(s, (void *)&to, &length);
	return write(1, line, sprintf(line, "%d %d %s\n", getpid(), ntohs(to.sin_port), word[0])) < 0;
}
"""
_SPAWN = r"""
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
/* COUNT KIND ADDRESS PROGRAM...: starts them in turn, two at once; tells on stderr how it went, in ns */
static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static int by_value(const void *a, const void *b)
{
	long long x = *(const long long *)a, y = *(const long long *)b;
	return x < y ? -1 : x > y;
}
int main(int count, char **word)
{
	int total = atoi(word[1]), programs = count - 4, started = 0, done = 0, failed = 0;
	struct { pid_t pid; long long since; } alive[2] = { 0 };
	long long *lives = calloc(total, sizeof(*lives)), begun = now();

	while (done < total) {
		int status;
		for (int i = 0; i < 2 && started < total; i++) {
			char *program = word[4 + started % programs], *argv[] = { program, word[2], word[3], NULL };
			if (alive[i].pid)
				continue;
			alive[i].since = now();
			if (posix_spawn(&alive[i].pid, program, NULL, NULL, argv, NULL))
				return 1;
			started++;
		}
		pid_t pid = wait(&status);
		for (int i = 0; i < 2; i++)
			if (alive[i].pid == pid) {
				alive[i].pid = 0;
				lives[done++] = now() - alive[i].since;
				failed += status != 0;
			}
	}
	long long took = now() - begun;
	qsort(lives, total, sizeof(*lives), by_value);
	fprintf(stderr, "{\"took\": %lld, \"median\": %lld, \"failed\": %d}\n", took, lives[total / 2], failed);
}
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The spawner, and copies of one small program under different names in different places."""
    folder = tmp_path_factory.mktemp("programs")
    built = {}
    for name, source in (("short", _SHORT), ("spawn", _SPAWN)):
        file = folder / f"{name}.c"
        file.write_text(source)
        built[name] = folder / name
        subprocess.run(["gcc", "-O2", "-static", "-w", "-o", built[name], file], check=True)
    copies = []
    for number in range(_COPIES):
        copy = folder / f"place{number % 4}" / f"short-{number}"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(built["short"].read_bytes())
        copy.chmod(0o755)
        copies.append(copy)
    return built["spawn"], copies


Truth = dict[tuple[int, int], str]
"""Of each program by its process id and port: its path."""


def _run(world: World, programs: tuple[Path, list[Path]], kind: str) -> Truth:
    """Starts them as fast as it must be: what a busy machine did too slowly is done again, and counts as well.

    A machine that cannot start so many by itself takes its time: the names are compared all the same.
    """
    truth, how = _once(world, programs, kind)
    for _ in range(3):
        if how["median"] < _LIFE and HOW_MANY / (how["took"] / 1e9) >= _RATE:
            return truth
        more, how = _once(world, programs, kind)
        truth |= more
    if how["median"] < _LIFE:
        return truth
    pytest.fail(f"this machine is too busy for programs that live less than {_LIFE} ns: {how}")


def _once(world: World, programs: tuple[Path, list[Path]], kind: str) -> tuple[Truth, dict[str, Any]]:
    spawner, copies = programs
    process = world.popen(
        [spawner, str(HOW_MANY), kind, plan.ECHO.v4, *copies],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output, errors = process.communicate(timeout=60)
    how: dict[str, Any] = json.loads(errors)
    assert (process.returncode, how["failed"]) == (0, 0)
    truth = {}
    for line in output.splitlines():
        pid, port, path = line.split()
        truth[int(pid), int(port)] = path
    assert len(truth) == HOW_MANY
    return truth, how


@pytest.mark.parametrize("kind", ["tcp", "udp", "sendto"])
def test_decided_in_the_kernel(world: World, name: str, programs: tuple[Path, list[Path]], kind: str) -> None:
    """As `tidewaiter run` prints them."""
    with guard(world, name) as firewall:
        truth = _run(world, programs, kind)
        eventually(lambda: len(firewall.about(event="end")) >= len(truth), "the end of all of them", 30)
        firewall.stop()
    said = {
        (line["pid"], int(line["local"].rpartition(":")[2])): line["program"]
        for line in firewall.about(event="connection")
    }
    assert said == truth
    arguments = {line["arguments"][0] for line in firewall.about(event="connection")}
    assert arguments == {str(path) for path in programs[1]}
    stats = firewall.about(event="stats")[0]
    assert stats["kernel_events_lost"] == stats["events_dropped"] == 0


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_decided_in_python(world: World, name: str, programs: tuple[Path, list[Path]], kind: str) -> None:
    """As the function that decides sees them; a TCP connection waits for it."""
    said: Truth = {}

    def decide(connection: Connection) -> Verdict:
        said[connection.process.pid, connection.key.local_port] = connection.process.path
        return Verdict.PERMANENT_ACCEPT

    with Firewall(decide=decide, scope=scope_of(world), name=name) as firewall:
        truth = _run(world, programs, kind)
        eventually(lambda: len(said) >= len(truth), "all of them were decided")
        assert firewall.statistics()["kernel_events_lost"] == 0
    assert said == truth
