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


def test_no_hook_is_missing_from_the_table() -> None:
    sources = {path.name.removesuffix(".bpf.c") for path in KERNEL.glob("*.bpf.c")}
    attached = {source for source in sources if sections(source)}
    assert attached <= {layer.source for layer in LAYERS} <= sources
