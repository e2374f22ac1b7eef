"""driver/layers.py: the table against the eBPF sources that it describes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tidewaiter.driver.layers import LAYERS, Layer

KERNEL = Path(__file__).parents[2] / "src" / "tidewaiter" / "kernel"
SECTION = re.compile(r'^SEC\("(?P<name>[^"]+)"\)$', re.MULTILINE)
NOT_A_HOOK = {"syscall", "socket"}  # run by us on demand, or by netfilter's bpf match


def sections(source: str) -> set[str]:
    """The attach points that an eBPF source names."""
    return set(SECTION.findall((KERNEL / f"{source}.bpf.c").read_text())) - NOT_A_HOOK


def test_each_layer_has_a_name_and_a_source_of_its_own() -> None:
    assert len({layer.name for layer in LAYERS}) == len(LAYERS)
    assert len({layer.source for layer in LAYERS}) == len(LAYERS)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.source)
def test_the_hooks_are_those_of_the_source(layer: Layer) -> None:
    kernel_hooks = {hook for hook in layer.hooks if not hook.startswith("netfilter ")}
    assert sections(layer.source) == kernel_hooks
    assert layer.hooks
    assert layer.purpose
    by_family = {int(hook[-1]) for hook in layer.hooks if hook[-1] in "46"}
    assert by_family <= set(layer.families) <= {4, 6}


def test_each_family_has_every_layer_but_that_below_it() -> None:
    assert [layer.source for layer in LAYERS if layer.families != (4, 6)] == ["frames"]


def test_what_decides_can_refuse_by_its_source() -> None:
    """The hooks that the kernel asks, and netfilter's; the others only look."""
    asking = ("cgroup/connect", "cgroup/sendmsg", "cgroup_skb/", "netfilter ")
    deciding = [layer.source for layer in LAYERS if any(hook.startswith(asking) for hook in layer.hooks)]
    assert [layer.source for layer in LAYERS if layer.decides] == deciding


def test_no_hook_is_missing_from_the_table() -> None:
    sources = {path.name.removesuffix(".bpf.c") for path in KERNEL.glob("*.bpf.c")}
    attached = {source for source in sources if sections(source)}
    assert attached <= {layer.source for layer in LAYERS} <= sources
