"""The lab's name server, without its sockets: one message in, one message or nothing out (RFC 1035)."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tidewaiter.lab import plan

TTL = 60  # seconds

_ZONE = {dns.name.from_text(name): places for name, places in plan.NAMES.items()}


def answer(request: bytes) -> bytes | None:
    """The answer to one request, or None for bytes that deserve none (no DNS request at all).

    A and AAAA records for the lab's names, NXDOMAIN for all others, no records for other types.
    """
    try:
        query = dns.message.from_wire(request)
        response = dns.message.make_response(query, recursion_available=True)
        response.flags |= dns.flags.AA
        response.set_rcode(_fill(query, response))
        return response.to_wire()
    except dns.exception.DNSException:
        return None


def _fill(query: dns.message.Message, response: dns.message.Message) -> dns.rcode.Rcode:
    if query.opcode() != dns.opcode.QUERY:
        return dns.rcode.NOTIMP
    if len(query.question) != 1:
        return dns.rcode.FORMERR
    (question,) = query.question
    places = _ZONE.get(question.name)
    if places is None or question.rdclass != dns.rdataclass.IN:
        return dns.rcode.NXDOMAIN
    addresses = {
        dns.rdatatype.A: [place.v4 for place in places],
        dns.rdatatype.AAAA: [place.v6 for place in places],
    }
    if texts := addresses.get(question.rdtype):
        response.answer.append(
            dns.rrset.from_text_list(question.name, TTL, question.rdclass, question.rdtype, texts)
        )
    return dns.rcode.NOERROR
