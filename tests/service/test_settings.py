"""service/settings.py: what cannot be is said at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidewaiter.host.redirect import RedirectPorts
from tidewaiter.host.scope import Scope
from tidewaiter.model.verdict import Verdict
from tidewaiter.service.firewall import Firewall
from tidewaiter.service.local_device import Device
from tidewaiter.service.settings import Settings


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"fail": "ajar"}, "fail is 'open' or 'closed', not 'ajar'"),
        ({"redirect": RedirectPorts(tunnel=0)}, "the redirect port tunnel is 0"),
        ({"redirect": RedirectPorts(tunnel=53)}, "two redirect targets share a port: 53, 53, 719"),
        ({"on_timeout": Verdict.REDIRECT_TUNNEL}, "this firewall redirects nothing"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, wrong: dict[str, Any], sentence: str) -> None:
    """Whoever makes them, `Firewall`, `Device` or a command, hears the same sentence."""
    for make in (Settings, Firewall, Device):
        with pytest.raises(ValueError, match=sentence):
            make(scope=Scope(tmp_path, ()), **wrong)
