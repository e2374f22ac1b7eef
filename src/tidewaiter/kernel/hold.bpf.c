/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What the hold rules ask, by netfilter's bpf match, for each packet: must this one wait for Python? One copy is
 * loaded for each guarded namespace. Yes is 1: the rule then sends the packet to the queue.
 */
#include "flow.h"
#include "guest.h"
#include "listener.h"
#include "sight.h"
#include "text.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 tw_namespace = 0;

static __always_inline int tw_has_room(__u32 way, __u64 room)
{
	volatile struct tw_admission *line = bpf_map_lookup_elem(&admission, &way);

	return !line || line->asked - line->taken < room;
}

static __always_inline void tw_admit(__u32 way)
{
	struct tw_admission *line = bpf_map_lookup_elem(&admission, &way);

	if (line)
		__sync_fetch_and_add(&line->asked, 1);
}

/* The packet goes to the queue; Python hears whose it is before it sees it. Of one that the queue will drop it need not
 * hear: should there be room after all, it looks into the maps for it. */
static __always_inline int tw_send_to_queue(struct tw_connection *c)
{
	c->flags |= TW_REPORTED;
	tw_count(TW_COUNT_HELD);
	if (tw_has_room(TW_WAY_ANY, TW_QUEUE)) {
		tw_admit(TW_WAY_ANY);
		tw_emit(TW_EVENT_HELD, c);
	}
	return 1;
}

static __always_inline int tw_hold(struct tw_connection *c, const struct tw_connection *seen)
{
	tw_learn_ends(c, seen);
	return tw_send_to_queue(c);
}

/* Refusing what comes in takes an answer packet, which only user space can send: it is held as well, and the gate
 * refuses it should nobody be there. */
static __always_inline int tw_takes_user_space(__u8 verdict)
{
	return tw_is_temporary(verdict) || verdict == TW_PERMANENT_BLOCK;
}

static __always_inline int tw_hold_arrival(struct tw_connection *c, const struct tw_connection *seen)
{
	tw_admit(TW_WAY_IN);
	return tw_hold(c, seen);
}

/* What comes in for nobody that we know is seen by no gate that we know of either: so it is dropped here, or rather by the
 * rule before the queue's, which asks tw_hold_late about the very packet about which tw_hold_in has just said yes. Both run
 * in one softirq, which no other on this processor comes between. */
static __always_inline int tw_turn_away(void)
{
	__u32 zero = 0;
	__u64 *away = bpf_map_lookup_elem(&turned_away, &zero);

	if (away)
		*away = 1;
	return 1;
}

SEC("socket")
int tw_hold_late(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 *away = bpf_map_lookup_elem(&turned_away, &zero);

	if (!away || !*away)
		return 0;
	*away = 0;
	tw_count(TW_COUNT_UNHELD_DROPPED);
	return 1;
}

/* Known by its addresses alone: what comes in before the kernel has found a socket for it. */
static __always_inline int tw_hold_by_addresses(struct tw_config *settings, struct tw_connection *seen)
{
	struct tw_listener *listener;
	struct tw_connection *flow;
	struct tw_flow_key key;
	int known, full;

	seen->namespace = tw_namespace;
	seen->home = TW_HOME_ADDRESSES;
	seen->direction = TW_IN;
	tw_key_by_addresses(&key, seen);
	flow = bpf_map_lookup_elem(&flows, &key);
	known = flow && flow->epoch == settings->epoch;
	if (known && flow->verdict != TW_UNDECIDED)
		return tw_takes_user_space(flow->verdict) ? tw_hold_arrival(flow, seen) : 0;
	listener = tw_find_listener(tw_namespace, seen);
	/* Admission control: strangers must not fill the queue. Beyond the window nothing is asked, and nothing is kept: the
	 * gate decides by the policy in the kernel, and where that says to ask, does what `fail` says. */
	full = !tw_has_room(TW_WAY_IN, TW_WINDOW);
	if (listener && full)
		return 0;
	full = full && !settings->fail_open;
	if (known)
		return full ? tw_turn_away() : tw_hold_arrival(flow, seen);
	if (flow) {
		__builtin_memcpy(&seen->owner, &flow->owner, sizeof(seen->owner));
		seen->direction = flow->direction;
		seen->opened = flow->opened;
	} else {
		if (listener) {
			__builtin_memcpy(&seen->owner, &listener->owner, sizeof(seen->owner));
			seen->cookie = listener->cookie;
		} else if (!settings->whole) {
			return 0; /* for a program that is none of ours, or for nobody */
		}
		seen->opened = bpf_ktime_get_ns();
	}
	seen->used = seen->opened;
	tw_decide(seen, 1);
	if (full && seen->verdict == TW_UNDECIDED)
		return tw_turn_away();
	if (tw_takes_user_space(seen->verdict))
		seen->flags |= TW_REPORTED; /* below, and its entry says so */
	bpf_map_update_elem(&flows, &key, seen, BPF_ANY);
	return tw_takes_user_space(seen->verdict) ? tw_hold_arrival(seen, seen) : 0;
}

/* A packet without a connection. It is held for a question, and for a refusal too: user space sends the answer that ping
 * understands, or is silent where a program that listens for errors would hear of what the gate drops; and what comes
 * in may have no socket, and so no gate. */
__noinline int tw_hold_other(struct tw_connection *seen, __u64 cookie, int incoming)
{
	struct tw_config *settings = tw_config();
	struct tw_connection *flow;
	struct tw_owner *maker;
	struct tw_flow_key key;

	if (!settings || !seen)
		return 0;
	seen->namespace = tw_namespace;
	if (incoming) {
		seen->home = TW_HOME_ADDRESSES;
		seen->direction = TW_IN;
		tw_key_by_addresses(&key, seen);
		flow = bpf_map_lookup_elem(&flows, &key);
		cookie = flow ? flow->cookie : 0;
		if (cookie && !bpf_map_lookup_elem(&makers, &cookie))
			flow = NULL; /* its socket is closed: this is no reply to it */
		if (!flow && !settings->whole)
			return 0; /* for a program that is none of ours, or for nobody */
		if (flow) {
			seen->cookie = flow->cookie;
			__builtin_memcpy(&seen->owner, &flow->owner, sizeof(seen->owner));
		}
	} else {
		maker = bpf_map_lookup_elem(&makers, &cookie);
		if (!maker)
			return 0; /* the kernel answers what has come in, or the socket was open before us */
		seen->home = TW_HOME_PEER;
		seen->direction = TW_OUT;
		seen->cookie = cookie;
		__builtin_memcpy(&seen->owner, maker, sizeof(seen->owner));
		tw_key_by_peer(&key, seen);
		flow = bpf_map_lookup_elem(&flows, &key);
	}
	tw_decide_packet(seen, flow);
	if (!flow || flow->epoch != seen->epoch)
		bpf_map_update_elem(&flows, &key, seen, BPF_ANY);
	if (!incoming)
		tw_expect_replies(seen, &key);
	return tw_is_accept(seen->verdict) ? 0 : tw_hold(seen, seen);
}

/* Whether a forwarded connection ends with this packet. Its verdict stays for what may still come of it. */
static __always_inline int tw_ends_now(struct tw_connection *flow, __u8 tcp_flags, __u8 side)
{
	if (flow->protocol != IPPROTO_TCP || !(tcp_flags & (TCP_FIN | TCP_RST)) || (flow->closing & TW_OVER))
		return 0;
	flow->closing |= side;
	if (!(tcp_flags & TCP_RST) && flow->closing != (TW_FIN_SENT | TW_FIN_RECEIVED))
		return 0;
	flow->closing |= TW_OVER;
	return 1;
}

/* Whether a packet is what still comes of a connection that is over: nobody is asked about its last ACKs, or a second FIN. */
static __always_inline int tw_is_late(const struct tw_connection *flow, __u32 bytes, __u8 tcp_flags)
{
	return (flow->closing & TW_OVER) && !bytes && !(tcp_flags & TCP_SYN);
}

/* The flow that a forwarded packet is a reply to. */
static __always_inline struct tw_connection *tw_replied_to(const struct tw_connection *seen, struct tw_flow_key *key)
{
	struct tw_connection *flow;

	tw_key_by_addresses(key, seen);
	__builtin_memcpy(key->local, seen->remote, 16);
	__builtin_memcpy(key->remote, seen->local, 16);
	key->local_port = seen->remote_port;
	key->remote_port = seen->local_port;
	flow = bpf_map_lookup_elem(&flows, key);
	return flow && flow->direction == TW_FORWARD ? flow : NULL;
}

/* One more packet of a forwarded flow that is known, and must it wait? The end is told once, with its totals, and behind
 * the packet that brings it: this may have to wait, and it is over when that has gone. */
static __always_inline int tw_hold_more(const struct tw_config *settings, struct tw_connection *flow, __u64 *total, __u32 bytes, __u8 tcp_flags, __u8 side)
{
	int passes = tw_is_accept(flow->verdict) && (!tw_is_temporary(flow->verdict) || tw_is_late(flow, bytes, tcp_flags));
	int ends = tw_ends_now(flow, tcp_flags, side);

	if (!settings->uncounted)
		__sync_fetch_and_add(total, bytes);
	if (!passes)
		tw_send_to_queue(flow);
	if (ends && (flow->flags & TW_REPORTED))
		tw_emit(TW_EVENT_ENDED, flow);
	return !passes;
}

/* A packet that comes through: of a guest, or of another host. */
__noinline int tw_hold_forwarded(struct tw_connection *seen, __u32 bytes, __u8 tcp_flags)
{
	struct tw_config *settings = tw_config();
	struct tw_connection *flow, *guest;
	struct tw_flow_key key;
	int other, opens, ends, passes;

	if (!settings || !seen)
		return 0;
	other = tw_is_other(seen->protocol);
	opens = seen->protocol != IPPROTO_TCP || (tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	seen->namespace = TW_GUESTS;
	tw_key_by_addresses(&key, seen);
	guest = bpf_map_lookup_elem(&flows, &key);
	if (guest) {
		seen->cookie = guest->cookie;
		__builtin_memcpy(&seen->owner, &guest->owner, sizeof(seen->owner));
	}
	seen->namespace = tw_namespace;
	flow = tw_replied_to(seen, &key);
	if (flow)
		return tw_hold_more(settings, flow, &flow->received, bytes, tcp_flags, TW_FIN_RECEIVED);
	tw_key_by_addresses(&key, seen);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (flow && opens && (flow->closing & TW_OVER))
		flow = NULL; /* its ends are another's now */
	if (flow && flow->epoch == settings->epoch && !other)
		return tw_hold_more(settings, flow, &flow->sent, bytes, tcp_flags, TW_FIN_SENT);
	if (!flow && !opens)
		return 0; /* what began before us */
	if (!flow && !guest && !settings->whole)
		return 0; /* of none of ours */
	seen->home = TW_HOME_ADDRESSES;
	seen->direction = TW_FORWARD;
	seen->opened = seen->used = bpf_ktime_get_ns();
	if (flow) {
		seen->opened = flow->opened;
		seen->sent = flow->sent;
		seen->received = flow->received;
		seen->flags = flow->flags;
		seen->closing = flow->closing;
	}
	if (!settings->uncounted)
		seen->sent += bytes;
	tw_decide(seen, 1);
	if (tw_is_accept(seen->verdict))
		tw_report(settings, seen);
	else
		seen->flags |= TW_REPORTED; /* below, and its entry says so */
	ends = flow && tw_ends_now(seen, tcp_flags, TW_FIN_SENT); /* it may be the first packet under a new policy */
	if (!other || !flow || flow->epoch != seen->epoch)
		bpf_map_update_elem(&flows, &key, seen, BPF_ANY);
	passes = tw_is_accept(seen->verdict);
	if (!passes)
		tw_hold(seen, seen);
	if (ends && (seen->flags & TW_REPORTED))
		tw_emit(TW_EVENT_ENDED, seen);
	return !passes;
}

/* What another host, or a guest, says to a resolver elsewhere: known by its addresses. */
__noinline int tw_tell_through(struct __sk_buff *skb, int incoming)
{
	struct tw_telling telling = { .skb = skb, .incoming = incoming, .namespace = tw_namespace, .direction = TW_FORWARD };
	struct tw_headers h;

	if (!tw_parse_headers(skb, &h) && !(h.flags & TW_LATER_FRAGMENT))
		tw_tell_pieces(&telling, &h);
	return 0;
}

SEC("socket")
int tw_hold_through(struct __sk_buff *skb)
{
	struct tw_sight sight = { };

	if (!tw_see(skb, &sight, 0) || (sight.control && tw_is_other(sight.ends.protocol)))
		return 0;
	if (sight.ends.remote_port == TW_RESOLVER || sight.ends.local_port == TW_RESOLVER)
		tw_tell_through(skb, sight.ends.remote_port != TW_RESOLVER);
	return tw_hold_forwarded(&sight.ends, sight.payload, sight.tcp_flags);
}

/* The socket that a packet is known to belong to, 0 for none. A connection that is only waiting to be forgotten does not
 * own the SYN of the next one. */
static __always_inline __u64 tw_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk && sk->state != TCP_TIME_WAIT ? bpf_get_socket_cookie(skb) : 0;
}

__noinline int tw_hold_slow(struct __sk_buff *skb, int incoming)
{
	struct tw_config *settings = tw_config();
	__u64 cookie = tw_socket(skb);
	struct tw_sight sight = { };
	struct tw_connection *c;
	struct tw_flow_key key;

	if (!settings || !tw_see(skb, &sight, incoming))
		return 0;
	if (tw_is_other(sight.ends.protocol))
		return incoming && sight.control ? 0 : tw_hold_other(&sight.ends, cookie, incoming);
	c = cookie ? bpf_map_lookup_elem(&pending, &cookie) : NULL;
	if (c && (c->flags & TW_MARKER)) { /* a socket with many peers: is it this one? */
		sight.ends.cookie = cookie;
		tw_key_by_peer(&key, &sight.ends);
		c = bpf_map_lookup_elem(&flows, &key);
		return c && tw_is_temporary(c->verdict) ? tw_hold(c, &sight.ends) : 0;
	}
	if (c)
		return tw_is_temporary(c->verdict) ? tw_hold(c, &sight.ends) : 0;
	if (!incoming || cookie)
		return 0;
	if (sight.ends.protocol == IPPROTO_TCP && (sight.tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return 0;
	return tw_hold_by_addresses(settings, &sight.ends);
}

/* Most packets belong to a socket about which there is no question: they cost one look. */
static __always_inline int tw_must_wait(struct __sk_buff *skb, int incoming)
{
	__u64 cookie = tw_socket(skb);
	__u8 protocol;

	/* of IPv6 it may be an extension header, which tw_hold_slow walks */
	if (bpf_skb_load_bytes(skb, skb->protocol == bpf_htons(ETH_P_IP) ? 9 : 6, &protocol, 1))
		return 0;
	if (tw_is_other(protocol))
		return tw_hold_slow(skb, incoming);
	if (cookie) {
		if (!bpf_map_lookup_elem(&pending, &cookie))
			return 0;
	} else if (!incoming) {
		return 0;
	}
	return tw_hold_slow(skb, incoming);
}

SEC("socket")
int tw_hold_out(struct __sk_buff *skb)
{
	return tw_must_wait(skb, 0);
}

SEC("socket")
int tw_hold_in(struct __sk_buff *skb)
{
	return tw_must_wait(skb, 1);
}
