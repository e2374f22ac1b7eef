"""A million names and half a million networks: load, memory and lookup, beside Python's set and ipaddress, and a floor.

Then as a running firewall has them: how long another thread waits while they are read again, and what a decision costs.
Each contender is a process of its own, so its memory is its own. The floor is what a list can cost at least in Python:
numbers in sorted arrays and bisect, without zones, and with a name's hash in the place of the name.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from harness import rounds, save, show

from tidewaiter.lists import FORMATS, CompiledList, Reader
from tidewaiter.model.key import Address, Direction
from tidewaiter.policy import Classifier, Facts, Policy
from tidewaiter.service.lists import Subscription
from tidewaiter.service.world import Sources

NAMES, NETWORKS = 1_000_000, 500_000
ASKED = 2_000
Lookup = Callable[[str], bool]
LookupAddress = Callable[[Address], bool]
Loaded = tuple[Lookup, LookupAddress]


def make(folder: Path) -> None:
    """Writes a hosts file, a list of networks (half of each family), and what to ask about."""
    chance = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    ends = (".com", ".net", ".co.uk", ".cloud.example.com", ".info")
    names: set[str] = set()
    while len(names) < NAMES:
        names.add("".join(chance.choices(letters, k=chance.randint(5, 16))) + chance.choice(ends))
    ordered = sorted(names)
    chance.shuffle(ordered)
    (folder / "names").write_text("".join(f"0.0.0.0 {name}\n" for name in ordered))
    networks: set[str] = set()
    while len(networks) < NETWORKS // 2:
        networks.add(str(ip_network((chance.getrandbits(24) << 8, 24))))
    while len(networks) < NETWORKS:
        networks.add(str(ip_network((chance.getrandbits(48) << 80, 48))))
    mixed = sorted(networks)
    chance.shuffle(mixed)
    (folder / "networks").write_text("".join(f"{network}\n" for network in mixed))
    some = {
        "listed": chance.sample(ordered, ASKED),
        "not listed": [f"www.shop.{name}" for name in chance.sample(ordered, ASKED)],
        "IPv4": [str(ip_address(chance.getrandbits(32))) for _ in range(ASKED)],
        "IPv6": [str(ip_network(text)[7]) for text in chance.sample([n for n in mixed if ":" in n], ASKED)],
    }
    (folder / "asked").write_text(json.dumps(some))


def memory(what: str) -> float:
    """VmRSS (now) or VmHWM (the most ever) of this process in MB."""
    status = Path("/proc/self/status").read_text().split(f"{what}:")[1]
    return int(status.split()[0]) / 1024


# --- the contenders --------------------------------------------------------------------------------


def read(path: Path, form: str) -> CompiledList:
    """A list by our reader."""
    reader = Reader(str(path), FORMATS[form])
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            reader.feed(block)
    return reader.finish()


def from_text(folder: Path) -> Loaded:
    """Ours, from the text."""
    return read(folder / "names", "hosts").contains_name, read(
        folder / "networks", "networks"
    ).contains_address


def from_cache(folder: Path) -> Loaded:
    """Ours, as after a restart."""
    found = []
    for name, form in (("names", "hosts"), ("networks", "networks")):
        one = Subscription(name, str(folder / name), form, folder / "kept")
        one.restore()
        assert one.list is not None
        found.append(one.list)
    return found[0].contains_name, found[1].contains_address


def by_policy(folder: Path) -> Sources:
    """Ours, as a firewall reads them: five lists, each named by two rules."""
    tables = ["version = 1"]
    for number, kind in enumerate(("names", "networks", "few", "few", "few")):
        tables.append(f'[list.l{number}]\npath = "{kind}"')
        tables += [f'[[rule]]\nport = {port}\nlist = "l{number}"\nverdict = "block"' for port in (80, 443)]
    (folder / "few").write_text("a.example\n198.51.100.1\n")
    path = folder / "policy.toml"
    path.write_text("\n".join(tables))
    return Sources(Policy.load(path), None, print)


def in_a_policy(folder: Path) -> Loaded:
    """Ours, as a firewall that starts for the first time has them."""
    found = by_policy(folder).world().lists
    return found["l0"].contains_name, found["l1"].contains_address


def in_a_firewall(folder: Path) -> dict[str, float]:
    """Microseconds of a decision, and milliseconds that another thread waits at most while all is read again."""
    sources = by_policy(folder)
    classifier = Classifier(sources.policy, sources.world())
    some = json.loads((folder / "asked").read_text())
    ends = ip_address("192.0.2.1"), 40000
    facts = [
        Facts("/usr/bin/curl", 1000, Direction.OUT, 6, *ends, ip_address(address), 443, names=(name,))
        for address, name in zip(some["IPv4"], some["not listed"], strict=True)
    ]
    figures = {"µs, decision with 5 lists": lookup(classifier.decide, facts) / 1000}
    begun = time.perf_counter()
    figures["ms, longest wait of nothing"] = wait_longest(lambda: time.perf_counter() < begun + 2) * 1000
    for name in ("names", "networks"):
        (folder / name).touch()
    thread = threading.Thread(target=sources.look_at_files)
    begun = time.perf_counter()
    thread.start()
    longest = wait_longest(thread.is_alive)
    figures["ms, longest wait while all is read again"] = longest * 1000
    figures["s, all is read again"] = time.perf_counter() - begun
    return figures


def wait_longest(on: Callable[[], bool]) -> float:
    """Seconds of the longest of many short pauses: what another thread, or another program, has added to one."""
    longest = 0.0
    while on():
        before = time.perf_counter()
        time.sleep(0.0005)
        longest = max(longest, time.perf_counter() - before)
    return longest


def with_set(folder: Path) -> Loaded:
    """What one writes in Python: a set of names, and a set of networks for each length of a prefix."""
    with (folder / "names").open() as file:
        names = {line.split()[1] for line in file}
    networks: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
    with (folder / "networks").open() as file:
        for line in file:
            network = ip_network(line.strip())
            lengths = networks[network.version]
            lengths.setdefault(network.max_prefixlen - network.prefixlen, set()).add(
                int(network.network_address)
            )

    def zones(name: str) -> bool:
        while name not in names:
            _, dot, name = name.partition(".")
            if not dot:
                return False
        return True

    def inside(address: Address) -> bool:
        number = int(address)
        return any(number >> bits << bits in found for bits, found in networks[address.version].items())

    return zones, inside


def floor(folder: Path) -> Loaded:
    """Sorted arrays of numbers, and bisect."""

    def number(name: str) -> int:
        return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")

    with (folder / "names").open() as file:
        names = array("Q", sorted(number(line.split()[1]) for line in file))
    starts = {4: array("Q"), 6: array("Q")}  # of IPv6 the upper half, which all prefixes here are within
    with (folder / "networks").open() as file:
        for line in file:
            network = ip_network(line.strip())
            starts[network.version].append(
                int(network.network_address) >> (64 if network.version == 6 else 0)
            )
    starts = {version: array("Q", sorted(found)) for version, found in starts.items()}

    def listed(name: str) -> bool:
        wanted = number(name)
        at = bisect_right(names, wanted)
        return at > 0 and names[at - 1] == wanted

    def inside(address: Address) -> bool:
        six = address.version == 6
        wanted = int(address) >> 64 if six else int(address)
        found = starts[address.version]
        at = bisect_right(found, wanted)
        return at > 0 and wanted - found[at - 1] < (1 << 16 if six else 256)

    return listed, inside


CONTENDERS: dict[str, Callable[[Path], Loaded]] = {
    "ours, from text": from_text,
    "ours, after a restart": from_cache,
    "ours, by a policy": in_a_policy,
    "set and ipaddress": with_set,
    "arrays and bisect": floor,
}


# --- one process -----------------------------------------------------------------------------------


def lookup(ask: Callable[[Any], object], what: Sequence[Any]) -> float:
    """Nanoseconds of the processor's time a lookup: the median of thirty walks through all that is asked."""
    figures = []
    for _ in range(30):
        begun = time.process_time_ns()
        for one in what:
            ask(one)
        figures.append((time.process_time_ns() - begun) / len(what))
    return statistics.median(figures)


def contend(name: str, folder: Path) -> None:
    """Runs one contender in this process, and prints its figures."""
    before = memory("VmRSS")
    begun, used = time.perf_counter(), time.process_time()
    names, addresses = CONTENDERS[name](folder)
    figures = {
        "s": time.perf_counter() - begun,
        "s of a processor": time.process_time() - used,
        "MB": memory("VmRSS") - before,
        "MB at most": memory("VmHWM") - before,
    }
    some = json.loads((folder / "asked").read_text())
    assert all(map(names, some["listed"]))
    assert not any(map(names, some["not listed"])) or name == "set and ipaddress"  # it lists zones
    for kind in ("listed", "not listed"):
        figures[f"ns, name {kind}"] = lookup(names, some[kind])
    for kind in ("IPv4", "IPv6"):
        figures[f"ns, {kind}"] = lookup(addresses, [ip_address(text) for text in some[kind]])
    print(json.dumps(figures))


def main() -> None:
    """Medians of interleaved rounds; and how quickly prefixes come out for the kernel."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subprocess.run([sys.executable, __file__, "make", folder], check=True)
        for name, form in (("names", "hosts"), ("networks", "networks")):
            print(Subscription(name, str(folder / name), form, folder / "kept").refresh().sentence)
        figures: dict[str, dict[str, list[float]]] = {name: {} for name in CONTENDERS}
        for _ in range(rounds()):
            for name in CONTENDERS:
                command = [sys.executable, __file__, name, str(folder)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                for figure, value in json.loads(done.stdout).items():
                    figures[name].setdefault(figure, []).append(value)
        firewall = in_a_firewall(folder)
        networks = read(folder / "networks", "networks").networks
        begun = time.perf_counter()
        count = sum(1 for version in (4, 6) for _ in networks.prefixes(version))
        prefixes = time.perf_counter() - begun
    result = {name: {k: statistics.median(v) for k, v in rows.items()} for name, rows in figures.items()}
    columns = list(result["ours, from text"])
    digits = [2, 2, 0, 0, 0, 0, 0, 0]
    rows = [
        (name, *(f"{found[column]:.{places}f}" for column, places in zip(columns, digits, strict=True)))
        for name, found in result.items()
    ]
    show(f"{NAMES:,} names and {NETWORKS:,} networks", ("", *columns), rows)
    print(f"{count:,} prefixes come out in {prefixes:.2f} s")
    show("in a running firewall", tuple(firewall), [tuple(f"{value:.2f}" for value in firewall.values())])
    save("lists", {**result, "in a firewall": firewall, "prefixes": {"count": count, "seconds": prefixes}})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", folder]:
            make(Path(folder))
        case [name, folder]:
            contend(name, Path(folder))
        case _:
            main()
