/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The maps. Every object declares them all; the loader makes each one once and hands it to the others.
 */
#ifndef TIDEWAITER_MAPS_H
#define TIDEWAITER_MAPS_H

#include "kernel.h"
#include "types.h"

/* What a socket's own connection is: the verdict cache of everything that has one peer. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tw_connection);
} sockets SEC(".maps");

/* Connections whose verdict is with Python, and the answers on their way back. Never evicts: when it is
 * full, a new connection is treated as `fail` says, and counted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct tw_connection);
} pending SEC(".maps");

/* Verdicts of what has no socket of its own. Evicts the least recently used, which is then decided anew. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct tw_flow_key);
	__type(value, struct tw_connection);
} flows SEC(".maps");

/* Who has made a socket that is neither of TCP nor of UDP, or writes from a namespace that is not guarded, by its cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct tw_owner);
} makers SEC(".maps");

/* Packet sockets, by inode: what there is of a connection. `local` begins with the index of the interface, 0 for any. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct tw_connection);
} packet_sockets SEC(".maps");

/* Who waits for connections and datagrams, by port and address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct tw_listener_key);
	__type(value, struct tw_listener);
} listeners SEC(".maps");

/* The place of a socket among them. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tw_listener_key);
} waiting SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct tw_process);
} processes SEC(".maps");

/* A process record of zeros, to make new entries from: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tw_process);
} blank_process SEC(".maps");

/* Guarded network namespaces, by netns cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u32);
} namespaces SEC(".maps");

/* Paths that rules name. Only grows, so a number means the same path for as long as the map lives. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct tw_path);
	__type(value, __u32);
} programs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct tw_value_key);
	__type(value, struct tw_named);
} policy_values SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct tw_range_key);
	__type(value, struct tw_named);
} policy_ranges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1048576);
	__type(key, struct tw_block_key);
	__type(value, struct tw_bits);
} policy_blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * TW_RULES);
	__type(key, __u32);
	__type(value, struct tw_rule);
} policy_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct tw_policy);
} policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tw_config);
} config SEC(".maps");

/* Python reads and writes it in memory (host/admission.py). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, TW_WAYS);
	__type(key, __u32);
	__type(value, struct tw_admission);
} admission SEC(".maps");

/* The packet that a processor has just been asked about is to be dropped: hold.bpf.c tells itself. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} turned_away SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TW_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} events SEC(".maps");

/* What programs ask of resolvers, and what these answer: by that Python knows the names of addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} texts SEC(".maps");

/* Ring buffers carry no BTF of their own: this keeps the types of their records in the object. */
const struct tw_event *tw_event_type __attribute__((unused));
const struct tw_text *tw_text_type __attribute__((unused));

/* The verifier looks at a function that is not static once, not at each of its calls: loading takes a third of the time. What
 * such a function returns it does not know, so the programs say it again. */
#define TW_WITHIN(value, mask) \
	({ \
		__u64 within = (value); \
		asm volatile("%[within] &= %[bits]" : [within] "+r"(within) : [bits] "i"(mask)); \
		(int)within; \
	})

static __always_inline void tw_count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);
	if (counter)
		__sync_fetch_and_add(counter, 1); /* an interrupt may count here too */
}

static __always_inline struct tw_config *tw_config(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&config, &zero);
}

/* The number of a process's path among those that rules name. */
static __always_inline void tw_number(struct tw_process *record, const struct tw_config *settings)
{
	/* read once: a reload in the middle must not pass for one that was seen */
	__u32 version = *(volatile const __u32 *)&settings->programs_version;
	__u32 *number;

	if (record->programs_version == version)
		return;
	number = bpf_map_lookup_elem(&programs, (struct tw_path *)record->path);
	/* of a path whose end alone is known, or that its user has made up, Python must look for the file */
	record->program = record->truncated || record->foreign ? TW_ANY : number ? *number : 0;
	*(volatile __u32 *)&record->programs_version = version; /* after the number: see tw_know_program */
}

/* Tells Python, without waking it: it looks when a packet is queued for it, and ten times a second. */
static __always_inline void tw_emit(__u32 kind, const struct tw_connection *connection)
{
	struct tw_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		tw_count(TW_COUNT_EVENTS_LOST);
		return;
	}
	event->time = bpf_ktime_get_ns();
	event->kind = kind;
	event->unused = 0;
	__builtin_memcpy(&event->connection, connection, sizeof(*connection));
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

#endif
