"""The layers as a table: where in the kernel we look, and what may be decided there.

The left column is what the Windows filtering platform calls it, which is how the Portmaster kernel extension and
its users name it; the right one is the eBPF hook that does it here, a file of ``kernel/*.bpf.c`` each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: ``source`` is the file in ``kernel/``, ``hooks`` are its attach points.

    ``families`` are the versions of IP that it sees, none where it is below IP; ``decides`` is what it may decide, ""
    for nothing.
    """

    name: str
    source: str
    hooks: tuple[str, ...]
    purpose: str
    families: tuple[int, ...] = (4, 6)
    decides: str = ""


LAYERS = (
    Layer(
        "ALE auth connect",
        "connect",
        ("cgroup/connect4", "cgroup/connect6"),
        "who connects, and whether it may: decided by the policy in the kernel, or left to the first packet",
        decides="to refuse `connect()`, by the policy",
    ),
    Layer(
        "ALE auth connect (datagrams)",
        "datagram",
        ("cgroup/sendmsg4", "cgroup/sendmsg6"),
        "the same for each peer of a datagram socket that is not connected",
        decides="to refuse `sendmsg()`, by the policy",
    ),
    Layer(
        "ALE auth recv-accept, endpoint closure",
        "stream",
        ("sockops",),
        "both ports before the SYN leaves; established; accepted; closed, with totals",
    ),
    Layer(
        "ALE resource assignment and release",
        "bind",
        ("cgroup/sock_create", "cgroup/post_bind4", "cgroup/post_bind6", "cgroup/sock_release"),
        "which program makes a raw socket, or waits on a port; a socket that is gone takes its flows with it",
    ),
    Layer(
        "IP packet out and in, datagram data",
        "packet",
        ("cgroup_skb/egress", "cgroup_skb/ingress"),
        "the gate: only packets of accepted connections pass; datagram bytes are counted",
        decides="each packet: to pass, to be refused, to be dropped",
    ),
    Layer(
        "Hold",
        "hold",
        ("netfilter output, bpf match", "netfilter input, bpf match", "netfilter forward, bpf match"),
        "which packets wait in the queue for a verdict from user space",
        decides="to let a packet wait; the answer is user space's",
    ),
    Layer(
        "Redirect",
        "redirect",
        ("netfilter nat output, bpf match",),
        "which flows go to a port of this host instead; where redirects are allowed",
        decides="where a flow goes",
    ),
    Layer(
        "Stream data",
        "totals",
        ("iter/bpf_sk_storage_map",),
        "bytes so far of every connection, from the kernel's own counters",
    ),
    Layer(
        "MAC frame",
        "frames",
        ("tp_btf/sock_send_length", "tp_btf/sock_recv_length"),
        "who sends and receives by a packet socket (AF_PACKET), past all other layers, and how many bytes",
        families=(),
    ),
)
