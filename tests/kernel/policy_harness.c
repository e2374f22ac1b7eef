/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The classifier of kernel/policy.h by itself, for test_policy.py: decides the connections in `cases`, up to the first
 * that has no address family, once as at the first packet and once as at connect(), by the policy in the maps of a
 * kernel half that is loaded.
 */
#include "policy.h"

#define CASES 1024

struct answer {
	__u32 rule;
	__u32 rule_at_connect;
	__u8 verdict;
	__u8 verdict_at_connect;
	__u8 tier;
	__u8 tier_at_connect;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CASES);
	__type(key, __u32);
	__type(value, struct tw_connection);
} cases SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CASES);
	__type(key, __u32);
	__type(value, struct answer);
} answers SEC(".maps");

static long decide(__u32 number, void *unused)
{
	struct tw_connection *c = bpf_map_lookup_elem(&cases, &number);
	struct answer *answer = bpf_map_lookup_elem(&answers, &number);

	if (!c || !answer || !c->family)
		return 1;
	tw_decide(c, 0);
	answer->rule_at_connect = c->rule;
	answer->verdict_at_connect = c->verdict;
	answer->tier_at_connect = c->tier;
	tw_decide(c, 1);
	answer->rule = c->rule;
	answer->verdict = c->verdict;
	answer->tier = c->tier;
	return 0;
}

SEC("cgroup_skb/egress")
int decide_all(struct __sk_buff *packet)
{
	bpf_loop(CASES, decide, NULL, 0);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
