"""Puts a firewall into the kernel and takes it out again: programs, pins, queue, hold rules, open sockets.

What is already there from a process that was killed is taken over as it is when it is the same build with the
same settings: no packet passes unguarded in between. Otherwise the new one stands before the old one goes.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tidewaiter.host import cgroup, hold, namespace, state, watch
from tidewaiter.host.adopt import adopt_open_sockets, forget_closed_sockets
from tidewaiter.host.hold import HoldRules
from tidewaiter.host.memory import give_back_large_blocks
from tidewaiter.host.policy_maps import PolicyMaps, set_config
from tidewaiter.host.processes import read_process
from tidewaiter.host.queue import Queue, QueueError
from tidewaiter.host.redirect import TARGETS, RedirectPorts
from tidewaiter.host.scope import Scope
from tidewaiter.host.snapshot import open_connections
from tidewaiter.host.state import State
from tidewaiter.host.symlinks import Symlinks
from tidewaiter.kernel import frames, links, records
from tidewaiter.kernel.libbpf import KernelError
from tidewaiter.kernel.loader import Kernel, detach
from tidewaiter.kernel.objects import Mode, build_digest
from tidewaiter.kernel.records import Home
from tidewaiter.kernel.totals import Totals
from tidewaiter.model.verdict import Verdict
from tidewaiter.policy.document import Policy

log = logging.getLogger("tidewaiter")

FIRST_QUEUE = 7300
_QUEUES_TRIED = 16
QUEUE_PATIENCE = 30.0
"""Seconds to wait for a queue that another program has."""

_LOOK_AGAIN = 0.1


@dataclass(slots=True)
class Installed:
    """A firewall in the kernel: the maps, with the policy in them, and a queue for each guarded namespace."""

    state: State
    kernel: Kernel
    maps: PolicyMaps
    queues: list[Queue]
    taken_over: bool


def install(
    name: str,
    scope: Scope,
    mode: Mode,
    policy: Policy,
    *,
    fail_open: bool,
    events: bool,
    count: bool = True,
    redirect: RedirectPorts | None = None,
    say: Callable[[str], object] = log.warning,
    symlinks: Symlinks | None = None,
) -> Installed:
    """Starts enforcing (or observing) ``policy`` in ``scope``. Without ``redirect`` what has such a verdict is dropped.
    ``count``: payload bytes. ``say`` is told what has to be waited for. ``symlinks`` are shared with whoever follows
    them too. From now on this process gives large blocks of memory back (memory.py).

    Raises KernelError, HoldError, QueueError or StateError with one sentence, and then nothing new is left.
    """
    give_back_large_blocks()
    old = state.load(name)
    if old is not None and old.alive:
        raise state.StateError(f"the firewall {name!r} already runs as process {old.pid}; stop it first")
    us = read_process(os.getpid())
    wanted = State(
        name=state.check_name(name),
        pid=os.getpid(),
        started=us.started if us else 0,
        serial=old.serial + 1 if old else 1,
        build=build_digest(),
        mode=mode.value,
        fail_open=fail_open,
        cgroup=str(scope.cgroup),
        namespaces=tuple(str(path) for path in scope.namespaces),
        redirect=tuple(redirect or ()),
    )
    switches = {"events": events, "uncounted": not count}
    if old is not None and old.complete and old.same_as(wanted) and links.standing(old.pins):
        taken = replace(old, pid=wanted.pid, started=wanted.started)
        return _take_over(taken, mode, policy, switches, say=say, symlinks=symlinks)
    installed = _install_new(wanted, old, mode, policy, scope, switches, symlinks=symlinks)
    if old is not None:
        _uninstall(old)
    installed.state = replace(installed.state, complete=True)
    installed.state.save()
    return installed


def remove(installed: Installed) -> list[str]:
    """Takes everything away: a normal stop leaves nothing. Returns what could not be removed."""
    failures = _remove_holds(installed.state)
    for queue in installed.queues:
        queue.close()
    installed.kernel.remove()
    _remove_directory(installed.state)
    installed.state.forget()
    return failures


def leave(installed: Installed) -> None:
    """Closes our handles and leaves everything in force, as a crash would."""
    for queue in installed.queues:
        queue.close()
    installed.kernel.close()


def clean_up(name: str) -> list[str]:
    """Removes what a process that is gone left behind. Returns what could not be removed, a sentence each.

    Raises StateError if it still runs.
    """
    old = state.load(name)
    if old is not None and old.alive:
        raise state.StateError(f"the firewall {name!r} runs as process {old.pid}: stop it instead")
    failures = _uninstall(old) if old is not None else []
    for pins in (state.PINS / name).glob("*"):
        detach(pins)
    shutil.rmtree(state.PINS / name, ignore_errors=True)
    if old is not None:
        old.forget()
    return failures


def load_policy(maps: PolicyMaps, policy: Policy, current: State) -> tuple[int, State]:
    """Puts a policy in force; returns its epoch, and the state with the names of its rules."""
    epoch = maps.put(policy)
    return epoch, replace(current, rules=maps.names())


def replace_policy(installed: Installed, policy: Policy) -> None:
    """Puts another policy in force; others learn the names of its rules. Raises KernelError: the old one stays."""
    _, installed.state = load_policy(installed.maps, policy, installed.state)
    installed.state.save()


def _install_new(
    wanted: State,
    old: State | None,
    mode: Mode,
    policy: Policy,
    scope: Scope,
    switches: Mapping[str, int],
    *,
    symlinks: Symlinks | None,
) -> Installed:
    def note(current: State) -> None:
        """Before each step, so that `clean_up` finds everything, whenever we are killed: what is old as well."""
        replace(current, holds=(*current.holds, *(old.holds if old else ()))).save()

    note(wanted)
    kernel, queues = None, []
    try:
        kernel = Kernel.load(wanted.pins, mode)
        maps = PolicyMaps(kernel, symlinks)
        enforce = mode is Mode.ENFORCE
        whole = scope.cgroup == cgroup.root()
        set_config(kernel, fail_open=wanted.fail_open, enforce=enforce, whole=whole, **switches)
        kernel.identify()
        for number, where in enumerate(scope.namespaces, start=1):
            known_as = namespace.cookie(where)
            kernel.map("namespaces").put(struct.pack("<Q", known_as), struct.pack("<I", number))
        epoch, wanted = load_policy(maps, policy, wanted)
        accepted = _accepted(old)
        for number, where in enumerate(scope.namespaces, start=1):
            adopt_open_sockets(kernel, scope.cgroup, where, number, epoch, accepted)
            if enforce:
                queue, wanted = _hold(kernel, wanted, number, where, note)
                queues.append(queue)
        kernel.attach(scope.cgroup)
        _count_frames(kernel, scope.cgroup)
        for number, where in enumerate(scope.namespaces, start=1):
            # what opened while we attached
            adopt_open_sockets(kernel, scope.cgroup, where, number, epoch, accepted)
            forget_closed_sockets(kernel, where, number)
    except BaseException:
        _remove_holds(wanted)
        for queue in queues:
            queue.close()
        if kernel is not None:
            kernel.remove()
        _remove_directory(wanted)
        if old is None:
            wanted.forget()
        else:
            old.save()
        raise
    return Installed(wanted, kernel, maps, queues, taken_over=False)


def _count_frames(kernel: Kernel, group: Path) -> None:
    """Where the kernel cannot, everything else goes on: `doctor` says so."""
    try:
        frames.attach(kernel, group)
    except KernelError as error:
        log.info("what goes through packet sockets is not counted: %s", error.strerror)


def _accepted(old: State | None) -> frozenset[int] | None:
    """The cookies of the sockets that an old generation lets pass; None where there is none to ask."""
    if old is None or old.mode != Mode.ENFORCE or not (old.pins / "maps").is_dir():
        return None
    kernel = Kernel.adopt(old.pins, Mode(old.mode))
    try:
        totals = Totals(kernel)
        try:
            found = [records.unpack(data) for data in open_connections(kernel, totals)]
        finally:
            totals.close()
    finally:
        kernel.close()
    return frozenset(record.cookie for record in found if Verdict(record.verdict).passes)


def _take_over(
    old: State,
    mode: Mode,
    policy: Policy,
    switches: Mapping[str, int],
    *,
    say: Callable[[str], object],
    symlinks: Symlinks | None,
) -> Installed:
    kernel = Kernel.adopt(old.pins, mode)
    taken = Installed(old, kernel, PolicyMaps(kernel, symlinks), [], taken_over=True)
    try:
        for number, (rules, _) in enumerate(old.hold_rules(), start=1):
            taken.queues.append(_wait_for_queue(rules, number, say))
        taken.kernel.identify()
        set_config(taken.kernel, **switches)
        _, taken.state = load_policy(taken.maps, policy, old)
        _forget_closed(taken.kernel)
        taken.state.save()
    except BaseException:
        leave(taken)
        raise
    return taken


def _wait_for_queue(rules: HoldRules, namespace_number: int, say: Callable[[str], object]) -> Queue:
    """The queue to which rules that are there already send packets. Who has it may be about to end."""
    deadline = time.monotonic() + QUEUE_PATIENCE
    told = False
    while True:
        try:
            return Queue(rules.where, namespace_number, rules.queue, fail_open=rules.fail_open)
        except QueueError:
            owner = watch.queue_owner(rules.where, rules.queue)
            if not owner or time.monotonic() > deadline:
                raise
        if not told:
            told = True
            say(f"queue {rules.queue} belongs to {owner}: waiting until it is free")
        time.sleep(_LOOK_AGAIN)


def _forget_closed(kernel: Kernel) -> None:
    """Questions about sockets that are closed: they were left to a firewall that is gone, and whose packets are too."""
    pending = kernel.map("pending")
    for key, data in list(pending.items()):
        if data[records.HOME] == Home.RELEASED:
            pending.delete(key)


def _hold(
    kernel: Kernel, wanted: State, number: int, where: Path, note: Callable[[State], None]
) -> tuple[Queue, State]:
    out, into = kernel.pin_hold(number)
    queue = _free_queue(where, number, fail_open=wanted.fail_open)
    for target, port in zip(TARGETS, wanted.redirect, strict=False):
        kernel.pin_redirect(number, target, port)
    rules = HoldRules(where, out, into, queue.number, wanted.fail_open, wanted.redirect)
    try:
        method = hold.install(rules, lambda method: note(wanted.with_hold(rules, method)))
    except BaseException:
        queue.close()
        raise
    return queue, wanted.with_hold(rules, method)


def _free_queue(where: Path, namespace_number: int, *, fail_open: bool) -> Queue:
    for number in range(FIRST_QUEUE, FIRST_QUEUE + _QUEUES_TRIED):
        try:
            return Queue(where, namespace_number, number, fail_open=fail_open)
        except QueueError as error:
            last = error
    raise last


def _uninstall(old: State) -> list[str]:
    failures = _remove_holds(old)
    detach(old.pins)
    shutil.rmtree(old.pins, ignore_errors=True)
    _remove_directory(old)
    return failures


def _remove_holds(wanted: State) -> list[str]:
    return [
        failure
        for rules, method in wanted.hold_rules()
        if rules.where is None or rules.where.exists()
        for failure in hold.remove(rules, method)
    ]


def _remove_directory(wanted: State) -> None:
    for path in (wanted.pins, wanted.pins.parent, state.PINS):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return  # another instance, or the new generation, is still there
