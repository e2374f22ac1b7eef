"""Ports by their names."""

from __future__ import annotations

from tidewaiter.policy.services import SERVICES
from tidewaiter.policy.words import parse_port


def test_each_name_is_a_port_and_can_be_written() -> None:
    for name, port in SERVICES.items():
        assert name == name.lower()
        assert 0 < port < 65536
        assert parse_port(name) == parse_port(port)
