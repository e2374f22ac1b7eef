/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Layers: IP packet out and in, with datagram data. The gate: whatever happened before, only packets of accepted
 * connections pass, and datagram bytes are counted. A packet of a decided socket costs one look into
 * the socket's own storage; everything else is the slow path.
 */
/* build: enforce */
/* build: observe -DOBSERVE */
#include "adopt.h"
#include "gate.h"
#include "guest.h"
#include "listener.h"
#include "meet.h"
#include "peer.h"
#include "text.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define TW_TALK 4 /* with TW_GO: to or from a resolver */

/* A question that comes up at the gate, where nothing can be held any more: this packet is dropped, whatever `fail` says,
 * and the next one meets the hold match. */
static __always_inline int tw_ask_late(struct tw_config *settings, struct tw_connection *c)
{
	if (tw_ask(c))
		return TW_PERMANENT_DROP;
	return settings->fail_open ? TW_PERMANENT_ACCEPT : TW_UNDECIDED;
}

/* A connected socket whose verdict is not this policy's: the answer may be waiting, or the policy has changed. */
static __always_inline int tw_refresh(struct tw_config *settings, struct tw_connection *c, struct tw_flow_key *key)
{
	__u64 cookie = c->cookie;
	struct tw_connection *answer = bpf_map_lookup_elem(&pending, &cookie), *known;

	if (tw_is_answer(answer, settings, c)) {
		tw_take(c, answer);
		if (!tw_stays(c->verdict))
			bpf_map_delete_elem(&pending, &cookie);
		else
			tw_use_up(answer);
		return c->verdict;
	}
	if (c->epoch == settings->epoch && (c->verdict != TW_UNDECIDED || !settings->enforce))
		return c->verdict;
	known = c->flags & TW_REGISTERED ? tw_known_by_addresses(settings, c, key) : NULL;
	if (known && !tw_is_temporary(known->verdict) && known->owner.pid == c->owner.pid)
		tw_take(c, known);
	else
		tw_decide(c, 1);
	if (c->verdict == TW_UNDECIDED && settings->enforce)
		return c->home == TW_HOME_RELEASED ? TW_PERMANENT_DROP : tw_ask_late(settings, c);
	if (answer)
		bpf_map_delete_elem(&pending, &cookie);
	return c->verdict;
}

/* Later packets of this flow that come in before a socket is found will find it by its addresses. */
static __always_inline void tw_register(struct tw_connection *c, const struct tw_connection *seen, struct tw_flow_key *key)
{
	struct tw_connection *copy;

	tw_key_by_addresses(key, seen);
	c->flags |= TW_REGISTERED;
	bpf_map_update_elem(&flows, key, c, BPF_ANY);
	copy = bpf_map_lookup_elem(&flows, key);
	if (!copy)
		return;
	tw_learn_ends(copy, seen);
	copy->home = TW_HOME_ADDRESSES;
	copy->flags |= TW_REPORTED;
}

/* What has no verdict of its own yet: decided with all that a packet tells. */
static __always_inline int tw_decide_flow(struct tw_config *settings, struct tw_connection *c, struct tw_flow_key *key)
{
	struct tw_connection *known = bpf_map_lookup_elem(&flows, key);
	int verdict;

	if (known && (known->epoch == settings->epoch)) {
		verdict = known->verdict;
		tw_use_up(known);
		return verdict;
	}
	tw_decide(c, 1);
	if (tw_is_kept(settings, c))
		bpf_map_update_elem(&flows, key, c, BPF_ANY);
	return c->verdict;
}

/* What was decided about a flow before its socket was found, if it was decided for this socket's program. */
static __always_inline int tw_inherit(struct tw_config *settings, struct tw_connection *c, struct tw_connection *seen, struct tw_flow_key *key)
{
	struct tw_connection *known = tw_known_by_addresses(settings, seen, key);
	struct tw_listener *listener;

	if (!known)
		return 0;
	if (known->owner.pid != c->owner.pid || known->owner.started != c->owner.started) {
		tw_decide(seen, 1);
		if (seen->verdict != TW_UNDECIDED || !settings->enforce)
			return 1;
		/* whoever waits at the port speaks for all who share it; else it was the port of another program */
		listener = tw_find_listener(seen->namespace, seen);
		if (!listener || listener->owner.pid != known->owner.pid) {
			bpf_map_delete_elem(&flows, key);
			return 0;
		}
	}
	tw_take(seen, known);
	seen->flags |= TW_REGISTERED;
	return 1;
}

/* Python is asked about each packet of this flow, and so there must be a mark at its socket, by which the hold finds it.
 * Where there is none, this packet was not held: what comes in is, by its addresses; what goes out may have been answered
 * in the place of its socket, or the mark has given way to such an answer. */
static __always_inline int tw_recall(struct tw_config *settings, struct tw_connection *c, struct tw_connection *flow, int incoming)
{
	__u64 cookie = c->cookie;
	struct tw_connection *asked = bpf_map_lookup_elem(&pending, &cookie);

	if ((asked && (asked->flags & TW_MARKER)) || (c->home == TW_HOME_RELEASED && flow->verdict != TW_UNDECIDED))
		return flow->verdict;
	if (tw_is_answer(asked, settings, flow))
		tw_take(flow, asked);
	if (c->home != TW_HOME_RELEASED) {
		flow->flags |= TW_MARKER;
		if (!tw_ask(flow) && tw_is_temporary(flow->verdict))
			return settings->fail_open ? TW_PERMANENT_ACCEPT : TW_UNDECIDED;
	}
	return tw_is_temporary(flow->verdict) && !incoming ? TW_PERMANENT_DROP : flow->verdict;
}

/* The flow of a datagram, from what is known of its socket and of its addresses. */
static __always_inline void tw_open_flow(struct tw_config *settings, struct tw_connection *c, struct tw_connection *flow, struct tw_connection *seen, struct tw_flow_key *key, int incoming)
{
	__builtin_memcpy(&seen->owner, &c->owner, sizeof(seen->owner));
	seen->home = TW_HOME_PEER;
	seen->opened = seen->used = bpf_ktime_get_ns();
	seen->direction = incoming ? TW_IN : TW_OUT;
	if (flow) {
		__builtin_memcpy(&seen->owner, &flow->owner, sizeof(seen->owner));
		seen->direction = flow->direction;
		seen->opened = flow->opened;
		seen->sent = flow->sent;
		seen->received = flow->received;
		seen->flags = flow->flags;
	}
	if (!tw_inherit(settings, c, seen, key))
		tw_decide(seen, 1);
	tw_key_by_peer(key, seen);
	if (flow || tw_is_kept(settings, seen))
		bpf_map_update_elem(&flows, key, seen, BPF_ANY);
}

/* A datagram of a socket with many peers. */
__noinline int tw_datagram(struct __sk_buff *skb, struct tw_connection *c, struct tw_connection *seen, __u32 bytes, int incoming)
{
	struct tw_config *settings = tw_config();
	struct tw_connection *flow;
	struct tw_flow_key key;
	int verdict;

	if (!settings || !c || !seen)
		return TW_UNDECIDED;
	if (!c->home) { /* written to before it has written itself */
		c->home = TW_HOME_PEER;
		c->flags |= TW_MARKER;
	}
	seen->cookie = c->cookie;
	tw_key_by_peer(&key, seen);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow || flow->epoch != settings->epoch || (incoming && tw_is_temporary(flow->verdict) && settings->enforce)) {
		tw_open_flow(settings, c, flow, seen, &key, incoming);
		if (seen->verdict == TW_UNDECIDED && settings->enforce) {
			if (c->home == TW_HOME_RELEASED)
				return TW_PERMANENT_DROP;
			if (incoming)
				return tw_wait_here(skb, c, seen) ? TW_PERMANENT_DROP : TW_UNDECIDED;
			seen->flags |= TW_MARKER;
			return tw_ask_late(settings, seen);
		}
		flow = bpf_map_lookup_elem(&flows, &key);
		if (!flow)
			return settings->fail_open ? TW_PERMANENT_ACCEPT : TW_UNDECIDED;
	}
	verdict = flow->verdict;
	if (tw_is_temporary(verdict) && settings->enforce)
		verdict = tw_recall(settings, c, flow, incoming);
	if (!(flow->flags & TW_REGISTERED))
		tw_learn_ends(flow, seen);
	if (!(flow->flags & TW_REPORTED) && (verdict != TW_UNDECIDED || !settings->enforce))
		tw_report(settings, flow);
	if (tw_is_accept(verdict) || !settings->enforce) {
		tw_add(settings, flow, bytes, incoming);
		if (!(flow->flags & TW_REGISTERED) || !tw_same_local(flow, seen))
			tw_register(flow, seen, &key);
	}
	return verdict;
}

/* A packet without anything in its socket: sockets of the kernel itself, or a SYN at a listener. */
__noinline int tw_stranger(struct __sk_buff *skb, struct tw_connection *c, struct tw_sight *sight, int incoming)
{
	struct tw_config *settings = tw_config();
	struct tw_connection *seen;
	struct tw_flow_key key;

	if (!settings || !sight)
		return TW_PERMANENT_ACCEPT;
	seen = &sight->ends;
	if (c) {
		__builtin_memcpy(&seen->owner, &c->owner, sizeof(seen->owner));
	} else {
		if (!tw_packet_has_namespace)
			return TW_PERMANENT_ACCEPT;
		__u64 cookie = bpf_get_netns_cookie(skb);
		__u32 *namespace = bpf_map_lookup_elem(&namespaces, &cookie);

		if (!namespace) {
			if (!incoming)
				tw_guest_sends(skb, seen, sight->tcp_flags, &key);
			return TW_PERMANENT_ACCEPT;
		}
		seen->namespace = *namespace;
	}
	/* only a SYN opens a TCP connection; what it leads to has storage of its own */
	if (seen->protocol == IPPROTO_TCP && (sight->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN && (incoming || !c || !(c->flags & TW_RAW)))
		return TW_PERMANENT_ACCEPT;
	seen->home = TW_HOME_ADDRESSES;
	seen->direction = incoming ? TW_IN : TW_OUT;
	seen->opened = seen->used = bpf_ktime_get_ns();
	tw_key_by_addresses(&key, seen);
	return tw_decide_flow(settings, seen, &key);
}

/* A packet of the peer that its socket is connected to. */
__noinline int tw_connected(struct tw_connection *c, struct tw_connection *seen, __u32 bytes, int incoming)
{
	struct tw_config *settings = tw_config();
	struct tw_flow_key key;
	int verdict;

	if (!settings || !c || !seen)
		return TW_UNDECIDED;
	if (c->protocol == IPPROTO_UDP && !(c->flags & TW_REGISTERED))
		tw_learn_ends(c, seen);
	verdict = tw_refresh(settings, c, &key);
	if (c->protocol != IPPROTO_UDP)
		return verdict;
	if (verdict != TW_UNDECIDED || !settings->enforce)
		tw_report(settings, c);
	if (tw_is_accept(verdict) || !settings->enforce) {
		tw_add(settings, c, bytes, incoming);
		/* once, or when its way has changed; for a closed socket that is where its bytes are found */
		if (!(c->flags & TW_REGISTERED) || c->home == TW_HOME_RELEASED || !tw_same_local(c, seen))
			tw_register(c, seen, &key);
	}
	return verdict;
}

/* Whether a packet is of the connection that its socket is. What goes out is what the program wrote to its peer, whatever
 * address translation has made of it; what comes in at a datagram socket may be from anybody, should it not be connected
 * any more. */
static __always_inline int tw_is_of(const struct tw_connection *c, const struct tw_connection *seen, int incoming)
{
	return !incoming || c->protocol == IPPROTO_TCP || tw_same_remote(c, seen);
}

__noinline int tw_slow(struct __sk_buff *skb, int incoming)
{
	struct tw_config *settings = tw_config();
	struct tw_connection *c = NULL;
	struct tw_sight sight = { };
	struct bpf_sock *sk;
	__u8 protocol;
	int verdict;

	if (!settings)
		return TW_GO;
	sk = skb->sk;
	if (!tw_see(skb, &sight, incoming)) {
		/* the kernel sends no such thing itself, but for later fragments */
		c = sk && !incoming ? bpf_sk_storage_get(&sockets, sk, 0, 0) : NULL;
		return c && (c->flags & TW_RAW) && settings->enforce ? TW_SILENCE : TW_GO;
	}
	protocol = sight.ends.protocol;
	if (sk) {
		c = bpf_sk_storage_get(&sockets, sk, 0, 0);
		if (!c && tw_adopted(bpf_get_socket_cookie(skb)))
			c = tw_storage(sk, bpf_get_socket_cookie(skb));
		if (!c && incoming && protocol == IPPROTO_UDP && tw_meet(skb, &sight.ends))
			c = bpf_sk_storage_get(&sockets, sk, 0, 0);
		if (c)
			sight.ends.namespace = c->namespace;
	}
	if (incoming && protocol == IPPROTO_TCP && (sight.tcp_flags & TCP_RST))
		return TW_GO; /* it ends what it belongs to; our own refusals come this way */
	if (c && sight.routed) {
		verdict = TW_PERMANENT_DROP; /* past its verdict */
	} else if (tw_is_other(protocol) || (incoming && protocol == IPPROTO_UDP && c && (c->flags & TW_RAW))) {
		verdict = TW_PERMANENT_ACCEPT; /* of the kernel's own, or of a socket that was open before us */
		if (c && !(incoming && sight.control))
			verdict = tw_without_connection(c, &sight.ends, sight.payload, incoming);
	} else if (c && (c->flags & TW_CONNECTED) && tw_is_of(c, &sight.ends, incoming)) {
		verdict = tw_connected(c, &sight.ends, sight.payload, incoming);
	} else if (c && protocol == IPPROTO_UDP) {
		verdict = tw_datagram(skb, c, &sight.ends, sight.payload, incoming);
	} else {
		verdict = tw_stranger(skb, c, &sight, incoming);
	}
	if (tw_is_redirect(verdict) && !incoming && !tw_goes_home(&sight.ends))
		verdict = TW_PERMANENT_DROP; /* the redirect rules are gone, or were never there */
	verdict = settings->enforce ? tw_gate(settings, verdict) : TW_GO;
	return verdict == TW_GO && sight.ends.remote_port == TW_RESOLVER ? TW_GO | TW_TALK : verdict;
}

__noinline int tw_tell(struct __sk_buff *skb, int incoming)
{
	return tw_tell_of_socket(skb, incoming);
}

static __always_inline int tw_look_closely(struct __sk_buff *skb, int incoming)
{
	int pass = TW_WITHIN(tw_slow(skb, incoming), 7);

	if (pass & TW_TALK)
		tw_tell(skb, incoming);
	return pass & 3;
}

static __always_inline int tw_packet(struct __sk_buff *skb, int incoming)
{
	struct tw_config *settings = tw_config();
	struct tw_connection *c;

	if (!settings || !skb->sk)
		return tw_look_closely(skb, incoming);
	c = bpf_sk_storage_get(&sockets, skb->sk, 0, 0);
	if (c && c->epoch == settings->epoch && c->verdict == TW_PERMANENT_ACCEPT && (c->flags & TW_CONNECTED) &&
	    tw_is_plainly_of(skb, c, incoming)) {
		if (c->protocol == IPPROTO_TCP || ((c->flags & TW_REGISTERED) && c->home == TW_HOME_SOCKET)) {
			if (c->protocol != IPPROTO_TCP) /* else the kernel counts */
				tw_add(settings, c, skb->len - (c->family == 4 ? 28 : 48), incoming);
			if (c->remote_port == TW_RESOLVER)
				tw_tell(skb, incoming);
			return TW_GO;
		}
	}
	return tw_look_closely(skb, incoming);
}

SEC("cgroup_skb/egress")
int tw_egress(struct __sk_buff *skb)
{
	return TW_ENFORCED(tw_packet(skb, 0));
}

SEC("cgroup_skb/ingress")
int tw_ingress(struct __sk_buff *skb)
{
	return TW_ENFORCED(tw_packet(skb, 1) == TW_GO);
}
