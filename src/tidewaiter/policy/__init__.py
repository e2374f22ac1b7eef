"""The policy: which connection is accepted, blocked, dropped or asked about, and by which rule.

`dimensions` is the table of what rules can name; `words`, `patterns` and `scopes` read single words of it. A
`Policy` is read from TOML (`document`, `reader`, with `positions` to point at what is wrong) or made of `Rule`
objects in Python. A `Classifier` decides by it in Python, one `index` for each dimension; `compile_tables`
gives the same bit sets in the form that the kernel evaluates. `explain`, `trial`, `measure` and `schema` say
what a policy does; `edit`, `versions` and `spelling` change and write it; `opensnitch` and `portmaster` take
others over. Policy files are read and written where one is loaded or changed; what rules look things up in (lists,
where addresses are) is read by others and given as a `World`. Nothing here does I/O while it decides, and none of
it reads a clock. It may import `tidewaiter.model` and `tidewaiter.protocol` only.
"""

from tidewaiter.policy.classifier import Classifier
from tidewaiter.policy.details import Details, Lookup
from tidewaiter.policy.document import Policy
from tidewaiter.policy.errors import PolicyError
from tidewaiter.policy.patterns import BadValueError
from tidewaiter.policy.rule import Answer, Decision, Facts, PortSpan, Rule, World
from tidewaiter.policy.scopes import Network
from tidewaiter.policy.tables import KernelTables, RuleAction, compile_tables

__all__ = [
    "Answer",
    "BadValueError",
    "Classifier",
    "Decision",
    "Details",
    "Facts",
    "KernelTables",
    "Lookup",
    "Network",
    "Policy",
    "PolicyError",
    "PortSpan",
    "Rule",
    "RuleAction",
    "World",
    "compile_tables",
]
