/* SPDX-License-Identifier: Apache-2.0
 *
 * A flood of new flows, for the benchmarks and the tests. It ends by itself: after SECONDS, at RATE packets a second at
 * the most, whatever becomes of them. No two packets are of one flow.
 *
 *   flood in ADDRESS PORT SECONDS RATE KIND   from ever-new sources that do not exist (100.64.0.0/10, RFC 6598) to one
 *                                             port; KIND: udp, syn, or both in turn. Needs CAP_NET_RAW; IPv4 only
 *   flood out PORT SECONDS RATE KIND          datagrams to ever-new peers in the same network; KIND: one socket for all, or
 *                                             many, one for each, which is closed at once
 *
 *   flood wait PORT                           for what comes in, by TCP and UDP, until killed; "ready" when it waits
 *
 * The first two print how many packets were sent, how many the kernel refused (EPERM and the like), and how many
 * microseconds it took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define NETWORK 0x64400000u /* 100.64.0.0 */
#define HOSTS 22            /* bits of its host part */

struct packet {
	struct iphdr ip;
	union {
		struct udphdr udp;
		struct tcphdr tcp;
	};
};

struct target {
	in_addr_t address; /* 0: every packet to another stranger */
	int port;
	const char *kind;
};

static struct packet packets[BATCH];
static struct sockaddr_in peers[BATCH];
static struct iovec spans[BATCH];
static struct mmsghdr batch[BATCH];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

/* Neighbouring numbers are far apart; every one of 2^22 comes once before the first comes again. */
static in_addr_t stranger(unsigned long number)
{
	return htonl(NETWORK | ((number * 2654435761u) & ((1u << HOSTS) - 1)));
}

static unsigned short checksum(const struct packet *packet)
{
	const unsigned short *word = (const void *)&packet->tcp;
	unsigned long sum = htons(IPPROTO_TCP) + htons(sizeof(packet->tcp));

	sum += (packet->ip.saddr & 0xffff) + (packet->ip.saddr >> 16);
	sum += (packet->ip.daddr & 0xffff) + (packet->ip.daddr >> 16);
	for (unsigned i = 0; i < sizeof(packet->tcp) / 2; i++)
		sum += word[i];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* A datagram without contents (its checksum may be left out, RFC 768), or a SYN. */
static size_t forge(struct packet *packet, const struct target *to, unsigned long number)
{
	int syn = !strcmp(to->kind, "syn") || (!strcmp(to->kind, "both") && number % 2);
	size_t size = sizeof(packet->ip) + (syn ? sizeof(packet->tcp) : sizeof(packet->udp));
	unsigned short port = htons(1024 + (number >> HOSTS) % 60000);

	memset(packet, 0, sizeof(*packet));
	packet->ip.version = 4;
	packet->ip.ihl = 5;
	packet->ip.ttl = 64;
	packet->ip.protocol = syn ? IPPROTO_TCP : IPPROTO_UDP;
	packet->ip.tot_len = htons(size);
	packet->ip.saddr = stranger(number);
	packet->ip.daddr = to->address;
	if (syn) {
		packet->tcp.source = port;
		packet->tcp.dest = htons(to->port);
		packet->tcp.seq = htonl(number);
		packet->tcp.doff = 5;
		packet->tcp.syn = 1;
		packet->tcp.window = htons(1024);
		packet->tcp.check = checksum(packet);
	} else {
		packet->udp.source = port;
		packet->udp.dest = htons(to->port);
		packet->udp.len = htons(sizeof(packet->udp));
	}
	return size;
}

static void prepare(const struct target *to, unsigned long first, int count)
{
	for (int i = 0; i < count; i++) {
		peers[i].sin_family = AF_INET;
		peers[i].sin_addr.s_addr = to->address ? to->address : stranger(first + i);
		peers[i].sin_port = to->address ? 0 : htons(to->port);
		spans[i].iov_base = &packets[i];
		spans[i].iov_len = to->address ? forge(&packets[i], to, first + i) : 1;
		batch[i].msg_hdr = (struct msghdr){ &peers[i], sizeof(peers[i]), &spans[i], 1, NULL, 0, 0 };
	}
}

static int open_socket(const struct target *to)
{
	int fd = to->address ? socket(AF_INET, SOCK_RAW, IPPROTO_RAW) : socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0)
		fail("socket");
	return fd;
}

/* How many of the batch were taken. What is refused is passed over: what is behind it may go. */
static int send_all(int fd, int count)
{
	int done = 0, sent = 0;

	while (done < count) {
		int taken = sendmmsg(fd, batch + done, count - done, MSG_DONTWAIT);

		if (taken > 0)
			sent += taken;
		else if (errno != EPERM && errno != ENOBUFS && errno != EAGAIN && errno != ECONNREFUSED)
			fail("sendmmsg");
		done += taken > 0 ? taken : 1;
	}
	return sent;
}

static void flood(const struct target *to, double seconds, double rate)
{
	int many = !strcmp(to->kind, "many"), fd = many ? -1 : open_socket(to);
	unsigned long tried = 0, sent = 0;
	long begin = now(), spent;

	while ((spent = now() - begin) < seconds * 1e9) {
		long due = spent / 1e9 * rate - tried;
		int count = due < BATCH ? due : BATCH;

		if (due <= 0) {
			usleep(200);
			continue;
		}
		if (many) {
			count = 1;
			fd = open_socket(to);
		}
		prepare(to, tried, count);
		sent += send_all(fd, count);
		tried += count;
		if (many)
			close(fd);
	}
	printf("%lu %lu %ld\n", sent, tried - sent, (now() - begin) / 1000);
}

static void wait_at(int port)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(port) };
	int stream = socket(AF_INET, SOCK_STREAM, 0), datagrams = socket(AF_INET, SOCK_DGRAM, 0);

	if (bind(stream, (void *)&here, sizeof(here)) || listen(stream, 16) || bind(datagrams, (void *)&here, sizeof(here)))
		fail("wait");
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}

int main(int count, char **word)
{
	struct target to = { 0 };

	if (count == 7 && !strcmp(word[1], "in") && inet_pton(AF_INET, word[2], &to.address) == 1) {
		to.port = atoi(word[3]);
		to.kind = word[6];
		flood(&to, atof(word[4]), atof(word[5]));
	} else if (count == 6 && !strcmp(word[1], "out")) {
		to.port = atoi(word[2]);
		to.kind = word[5];
		flood(&to, atof(word[3]), atof(word[4]));
	} else if (count == 3 && !strcmp(word[1], "wait")) {
		wait_at(atoi(word[2]));
	} else {
		return fprintf(stderr, "see the head of flood.c\n"), 2;
	}
	return 0;
}
