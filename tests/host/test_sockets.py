"""host/sockets.py: which connections end with which socket."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.host.sockets import Sockets

STEPS = st.tuples(st.booleans(), st.integers(1, 3), st.sampled_from([b"a", b"b", b"c"]))


@given(st.lists(STEPS))
def test_it_is_a_set_of_names_for_each_socket(steps: list[tuple[bool, int, bytes]]) -> None:
    sockets, model = Sockets(), defaultdict[int, set[bytes]](set)
    for add, cookie, name in steps:
        if add:
            sockets.add(cookie, name)
            model[cookie].add(name)
        else:
            sockets.discard(cookie, name)
            model[cookie].discard(name)
        assert sorted(sockets) == sorted((one, name) for one, names in model.items() for name in names)
        assert all(sorted(sockets.of(one)) == sorted(names) for one, names in model.items())
        assert len(sockets) == sum(map(bool, model.values()))
