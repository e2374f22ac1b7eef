/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What the kernel half and Python share: every structure here reaches Python through the BTF of the
 * compiled objects (kernel/btf.py), so this file is the only place where a layout is written down.
 */
#ifndef TIDEWAITER_TYPES_H
#define TIDEWAITER_TYPES_H

#define TW_PATH 512      /* bytes of an executable's path, right-aligned, zeros before it */
#define TW_ARGUMENTS 512 /* bytes of a command line, zero between arguments */
#define TW_PARENTS 8     /* ancestors remembered */
#define TW_WORDS 4       /* 64-bit words in a block of rules */
#define TW_BLOCKS 64     /* blocks in a set of rules */
#define TW_RULES 16384   /* 64 * TW_WORDS * TW_BLOCKS */
#define TW_PIECE 1536    /* bytes of a packet in one struct tw_text */

/* model.Verdict, by the same numbers */
enum tw_verdict {
	TW_UNDECIDED = 0,
	TW_UNDETERMINABLE = 1,
	TW_ACCEPT = 2,
	TW_PERMANENT_ACCEPT = 3,
	TW_BLOCK = 4,
	TW_PERMANENT_BLOCK = 5,
	TW_DROP = 6,
	TW_PERMANENT_DROP = 7,
	TW_REDIRECT_NAME_SERVER = 8,
	TW_REDIRECT_TUNNEL = 9,
	TW_FAILED = 10,
	TW_REDIRECT_SPLIT_TUNNEL = 11,
};

enum tw_direction { TW_OUT = 0, TW_IN = 1, TW_FORWARD = 2 };

enum tw_tier { TW_TIER_NONE = 0, TW_TIER_CACHE = 1, TW_TIER_KERNEL = 2, TW_TIER_PYTHON = 3 };

/* Where the verdict of a connection is kept, which is also how it is found again. */
enum tw_home {
	TW_HOME_SOCKET = 1,    /* map `pending`, by socket cookie: TCP, connected UDP */
	TW_HOME_PEER = 2,      /* map `flows`, by cookie and remote end: unconnected UDP */
	TW_HOME_ADDRESSES = 3, /* map `flows`, by namespace and both ends: no socket seen yet */
	TW_HOME_RELEASED = 4,     /* as the first two, but its socket is closed: nothing more is asked about it */
};

enum tw_flag {
	TW_CONNECTED = 1,  /* the socket has one peer: its storage is this connection */
	TW_RAW = 2,        /* a raw socket, or one of another protocol than TCP and UDP */
	TW_REGISTERED = 4, /* the reply of this datagram flow finds it by addresses */
	TW_REPORTED = 8,   /* Python has been told of it */
	TW_MARKER = 16,    /* `pending` only: this socket has flows that may be undecided */
	TW_OWN = 32,       /* the firewall's own connection */
	TW_ADOPTED = 64,   /* it was open before us */
};

/* What has been seen of the end of a forwarded connection, which no socket here tells. */
enum tw_closing {
	TW_FIN_SENT = 1,
	TW_FIN_RECEIVED = 2,
	TW_OVER = 4, /* both, or RST: told */
};

/* Who: filled in the context of the program itself. */
struct tw_owner {
	__u64 started; /* task_struct.start_boottime of the thread group leader, ns */
	__u64 cgroup;  /* cgroup v2 id */
	__u32 pid;     /* thread group id in the initial namespace */
	__u32 uid;
	__u32 gid;
	__u32 program; /* number of the executable's path in map `programs`, 0: no rule names it, TW_ANY: not known */
	__u32 image;   /* task_struct.self_exec_id: the same process is another program after exec */
	__u32 version; /* of map `programs` when `program` was looked up */
};

struct tw_connection {
	struct tw_owner owner;
	__u64 cookie;      /* of the socket, 0 when none is known */
	__u64 opened;      /* CLOCK_MONOTONIC, ns; this and the next two */
	__u64 established;
	__u64 used;
	__u64 sent;        /* payload bytes */
	__u64 received;
	__u32 epoch;       /* of the policy that the verdict comes from */
	__u32 rule;        /* bit of the rule that decided, or that said to ask; TW_ANY: Python must look */
	__u8 verdict;
	__u8 tier;
	__u8 direction;
	__u8 flags;
	/* from here to remote_port: the flow, which names a connection (native/, kernel/records.py) */
	__u32 namespace;   /* number given to the network namespace */
	__u8 local[16];    /* an IPv4 address takes the first four bytes */
	__u8 remote[16];
	__u8 family;       /* 4 or 6 */
	__u8 protocol;
	__u16 local_port;  /* host order, as all ports here */
	__u16 remote_port;
	__u8 home;
	__u8 closing; /* forwarded TCP only: enum tw_closing */
};

struct tw_flow_key {
	__u64 scope; /* socket cookie, or TW_SCOPE_NAMESPACE | namespace number */
	__u8 local[16];
	__u8 remote[16];
	__u8 family;
	__u8 protocol;
	__u16 local_port;
	__u16 remote_port;
	__u16 unused;
};
#define TW_SCOPE_NAMESPACE (1ULL << 63)

/* The wildcard address is all zeros, in the family of its socket. */
struct tw_listener_key {
	__u32 namespace;
	__u16 port;
	__u8 protocol;
	__u8 family;
	__u8 address[16];
};

struct tw_listener {
	struct tw_owner owner;
	__u64 cookie;
};

enum tw_event_kind {
	TW_EVENT_HELD = 1,        /* a packet of this connection has been sent to the queue */
	TW_EVENT_DECIDED = 2,     /* decided in the kernel */
	TW_EVENT_ESTABLISHED = 3,
	TW_EVENT_ENDED = 4,       /* with totals */
	TW_EVENT_RELEASED = 5,    /* the socket is gone; its datagram flows end with it */
};

struct tw_event {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__u32 kind;
	__u32 unused;
	struct tw_connection connection;
};

/* A piece of what a program and a resolver say to each other, as it passed. */
struct tw_text {
	__u32 sequence; /* TCP: of the first byte of the packet's payload */
	__u32 at;       /* bytes of that payload before this piece */
	__u32 length;   /* bytes of the piece */
	__u32 whole;    /* bytes of the payload */
	__u8 incoming;
	__u8 tcp_flags;
	__u8 unused[6];
	struct tw_connection connection;
	__u8 bytes[TW_PIECE];
};

/* One entry of map `processes`, by thread group id. */
struct tw_process {
	__u64 started;
	__u64 inode;
	__u32 device;     /* kernel dev_t: major << 20 | minor */
	__u32 programs_version;
	__u32 program;
	__u32 path_start; /* index of the first byte of `path` */
	__u32 arguments_length;
	__u32 truncated;  /* the path was longer than there is room for */
	__u32 image;      /* as in struct tw_owner */
	__u32 foreign;    /* in mounts of a user namespace, where anybody may have put any file at any path */
	__u32 parents[TW_PARENTS];
	char path[TW_PATH];
	char arguments[TW_ARGUMENTS];
};

struct tw_path {
	char text[TW_PATH];
};

/* One block of a set of rules. */
struct tw_bits {
	__u64 word[TW_WORDS];
};

/* The rules that a value turns: those that want it, which it satisfies, and those that refuse it, which nothing else fails.
 * Most values are named by few rules, so only the blocks that are not empty are kept. */
struct tw_named {
	__u64 blocks; /* bit b: there are some in block b */
	__u32 number; /* under which all but the first of these are in `policy_blocks`; the lowest bit is the generation */
	__u32 unused;
	struct tw_bits first;
};

struct tw_block_key {
	__u32 number; /* of the set: struct tw_named */
	__u32 block;
};

enum tw_dimension {
	TW_DIMENSION_PROGRAM = 1,
	TW_DIMENSION_USER = 2,
	TW_DIMENSION_REMOTE = 4,
	TW_DIMENSION_LOCAL = 8,
	TW_DIMENSION_PORT = 16,
};

/* Longest prefix: networks and port ranges. `generation` is epoch & 1, so that a new policy can be
 * written beside the one in force. For ports: protocol, then the port in network order. */
struct tw_range_key {
	__u32 prefix; /* bits, counted from `generation` */
	__u8 generation;
	__u8 dimension; /* enum tw_dimension, | TW_FAMILY_6 */
	__u8 bytes[16];
	__u8 unused[2];
};
#define TW_FAMILY_6 64
#define TW_RANGE_FIXED 16 /* bits before `bytes` */

struct tw_value_key {
	__u8 generation;
	__u8 dimension;
	__u16 unused;
	__u32 value;
};
#define TW_ANY 0xffffffffu /* no rule, no program: nobody knows */

/* The rules that are satisfied in a dimension by a value that nobody names. */
struct tw_others {
	__u64 blocks; /* as in struct tw_named */
	struct tw_bits block[TW_BLOCKS];
};

enum tw_place { TW_PROGRAM = 0, TW_USER = 1, TW_REMOTE = 2, TW_LOCAL = 3, TW_PORT = 4, TW_PLACES = 5 };

struct tw_policy {
	struct tw_others kinds[4];          /* by direction; the last one is nobody's */
	struct tw_others others[TW_PLACES]; /* by enum tw_place */
	struct tw_bits local[TW_BLOCKS];    /* the rules that look at the local address */
	__u64 plain[4];                     /* by direction: the blocks with rules that want no value but perhaps a local address */
	__u32 dimensions;                   /* which are constrained by any rule */
	__u32 unused;
};

struct tw_rule {
	__u8 verdict; /* TW_UNDECIDED: consult */
	__u8 unused[3];
};

struct tw_config {
	__u32 epoch;
	__u32 programs_version; /* grows when a path is added to `programs` */
	__u32 own_pid;
	__u8 fail_open;
	__u8 events;  /* somebody wants to hear of what the kernel decides alone */
	__u8 enforce; /* 0: observe */
	__u8 whole;   /* every program is in scope: what comes in for an unknown one too */
	__u64 renew; /* cookie of the socket that takes its answer from `pending` in the next pass over all: totals.bpf.c */
	__u64 own_started; /* with own_pid, as in struct tw_owner: a process id may be used again */
	__u64 uncounted; /* 1: payload bytes are not counted */
	__u64 root; /* kernel address of the root directory's dentry, as the firewall sees it */
};

/* What is on its way to Python: packets that were sent to the queue, and how many of them it has taken. */
struct tw_admission {
	__u64 asked;
	__u64 taken;
};
enum tw_way { TW_WAY_IN = 0, TW_WAY_ANY = 1, TW_WAYS = 2 }; /* what came in for a program of ours; everything */
#define TW_WINDOW 1024 /* of what comes in, so many may be on their way */
#define TW_QUEUE 8192  /* the queue has no room for more */

enum tw_counter {
	TW_COUNT_EVENTS_LOST = 0,    /* the ring was full */
	TW_COUNT_UNHELD_DROPPED = 1, /* undecided at the gate, fail closed */
	TW_COUNT_UNHELD_PASSED = 2,  /* undecided at the gate, fail open */
	TW_COUNT_PENDING_FULL = 3,   /* no room to ask about a connection */
	TW_COUNT_HELD = 4,           /* packets sent to the queue */
	TW_COUNT_REFUSED = 5,        /* refused or dropped in the kernel */
	TW_COUNT_MAKERS_FULL = 6,    /* no room to note whose a socket's packets are */
	TW_COUNT_PACKET_SOCKETS_FULL = 7, /* calls by a packet socket that there was no room to count */
	TW_COUNT_TEXTS_LOST = 8,     /* the ring of texts was full: names that were not learnt */
	TW_COUNTERS = 9,
};

#endif
