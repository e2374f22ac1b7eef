/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The two homes of kernel/headers.h, for test_headers.py. In user space: reads packets from standard
 * input, each behind its length (32 bits, this host's order), and writes a record for each. In the
 * kernel: leaves the record of the last packet in a map.
 */
#ifdef __bpf__

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define TW_PACKET struct __sk_buff *
#define tw_load bpf_skb_load_bytes

#else

#include <linux/types.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct packet {
	const __u8 *data;
	__u32 size;
};
#define TW_PACKET const struct packet *

static inline int tw_load(TW_PACKET packet, __u32 offset, void *to, __u32 size)
{
	if (offset > packet->size || size > packet->size - offset)
		return -1;
	memcpy(to, packet->data + offset, size);
	return 0;
}

#endif

#include "headers.h"

struct record {
	int result;
	struct tw_headers headers;
};

static __always_inline void fill(TW_PACKET packet, struct record *record)
{
	record->result = tw_parse_headers(packet, &record->headers);
	if (record->result)
		record->headers = (struct tw_headers){0};
}

#ifdef __bpf__

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct record);
} records SEC(".maps");

SEC("cgroup_skb/egress")
int at_cgroup(struct __sk_buff *packet)
{
	struct record record;
	__u32 key = 0;

	fill(packet, &record);
	bpf_map_update_elem(&records, &key, &record, BPF_ANY);
	return 1;
}

SEC("socket")
int at_socket(struct __sk_buff *packet)
{
	struct tw_headers headers;

	return tw_parse_headers(packet, &headers) ? 0 : headers.payload;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#else

int main(void)
{
	__u32 size;

	while (fread(&size, sizeof(size), 1, stdin) == 1) {
		__u8 *data = malloc(size); /* of this size and no more, so that a byte too far is noticed */
		struct record record;

		if (size && (!data || fread(data, size, 1, stdin) != 1))
			return 1;
		fill(&(struct packet){.data = data, .size = size}, &record);
		free(data);
		if (fwrite(&record, sizeof(record), 1, stdout) != 1 || fflush(stdout))
			return 1;
	}
	return 0;
}

#endif
