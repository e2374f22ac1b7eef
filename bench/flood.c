/* SPDX-License-Identifier: Apache-2.0
 *
 * A flood of new flows, for the benchmarks and the tests. It ends by itself: after SECONDS, at RATE packets a second at
 * the most, whatever becomes of them. No two packets are of one flow.
 *
 *   flood in ADDRESS PORT SECONDS RATE KIND   from ever-new sources that do not exist (100.64.0.0/10, RFC 6598) to one
 *                                             port of a neighbour; KIND: udp, syn, or both in turn. IPv4 over Ethernet.
 *                                             Needs CAP_NET_RAW: frames go to the device, past routing, filters
 *                                             and queues of this side, so that the other side gets all the processor
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
#include <ifaddrs.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define NETWORK 0x64400000u /* 100.64.0.0 */
#define HOSTS 22            /* bits of its host part */

struct packet {
	struct ether_header link;
	struct iphdr ip;
	union {
		struct udphdr udp;
		struct tcphdr tcp;
	};
} __attribute__((packed));

struct target {
	in_addr_t address; /* 0: every packet to another stranger */
	int port;
	const char *kind;
	int device;               /* the index of its interface, and the head of each frame */
	struct ether_header link;
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

/* RFC 1071 */
static unsigned short checksum(unsigned long sum, const void *data, size_t size)
{
	unsigned short word;

	for (size_t at = 0; at + 1 < size; at += 2) {
		memcpy(&word, (const char *)data + at, 2);
		sum += word;
	}
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static unsigned long halves(in_addr_t address)
{
	return (address & 0xffff) + (address >> 16);
}

/* A datagram without contents (its checksum may be left out, RFC 768), or a SYN. */
static size_t forge(struct packet *packet, const struct target *to, unsigned long number)
{
	int syn = !strcmp(to->kind, "syn") || (!strcmp(to->kind, "both") && number % 2);
	size_t size = sizeof(packet->ip) + (syn ? sizeof(packet->tcp) : sizeof(packet->udp));
	unsigned short port = htons(1024 + (number >> HOSTS) % 60000);

	memset(packet, 0, sizeof(*packet));
	packet->link = to->link;
	packet->ip.version = 4;
	packet->ip.ihl = 5;
	packet->ip.ttl = 64;
	packet->ip.protocol = syn ? IPPROTO_TCP : IPPROTO_UDP;
	packet->ip.tot_len = htons(size);
	packet->ip.saddr = stranger(number);
	packet->ip.daddr = to->address;
	packet->ip.check = checksum(0, &packet->ip, sizeof(packet->ip));
	if (syn) {
		packet->tcp.source = port;
		packet->tcp.dest = htons(to->port);
		packet->tcp.seq = htonl(number);
		packet->tcp.doff = 5;
		packet->tcp.syn = 1;
		packet->tcp.window = htons(1024);
		packet->tcp.check = checksum(htons(IPPROTO_TCP) + htons(sizeof(packet->tcp)) + halves(packet->ip.saddr) + halves(to->address),
					     &packet->tcp, sizeof(packet->tcp));
	} else {
		packet->udp.source = port;
		packet->udp.dest = htons(to->port);
		packet->udp.len = htons(sizeof(packet->udp));
	}
	return sizeof(packet->link) + size;
}

static void prepare(const struct target *to, unsigned long first, int count)
{
	for (int i = 0; i < count; i++) {
		batch[i].msg_hdr = (struct msghdr){ .msg_iov = &spans[i], .msg_iovlen = 1 };
		spans[i].iov_base = &packets[i];
		spans[i].iov_len = to->address ? forge(&packets[i], to, first + i) : 1;
		if (to->address)
			continue;
		peers[i] = (struct sockaddr_in){ AF_INET, htons(to->port), { stranger(first + i) }, { 0 } };
		batch[i].msg_hdr.msg_name = &peers[i];
		batch[i].msg_hdr.msg_namelen = sizeof(peers[i]);
	}
}

/* The name of the interface that has an address; it is known to be ours. */
static void interface_of(in_addr_t address, char *name)
{
	struct ifaddrs *all, *one;

	if (getifaddrs(&all))
		fail("getifaddrs");
	for (one = all; one; one = one->ifa_next) {
		struct sockaddr_in *its = (void *)one->ifa_addr;

		if (its && its->sin_family == AF_INET && its->sin_addr.s_addr == address)
			strncpy(name, one->ifa_name, IFNAMSIZ - 1);
	}
	freeifaddrs(all);
}

/* Fills in how frames get to the target, as the kernel finds it out when something is sent there. */
static void find_neighbour(struct target *to)
{
	struct sockaddr_in there = { AF_INET, htons(9), { to->address }, { 0 } }, here; /* RFC 863: discard */
	struct arpreq known = { .arp_pa = { AF_INET, { 0 } } };
	struct ifreq device = { 0 };
	socklen_t size = sizeof(here);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || connect(fd, (void *)&there, sizeof(there)) || getsockname(fd, (void *)&here, &size))
		fail("socket");
	interface_of(here.sin_addr.s_addr, device.ifr_name);
	memcpy(&known.arp_pa, &there, sizeof(there));
	strcpy(known.arp_dev, device.ifr_name);
	for (int tries = 0; !(known.arp_flags & ATF_COM) && tries < 500; tries++) {
		send(fd, "", 0, MSG_DONTWAIT);
		usleep(10000);
		if (ioctl(fd, SIOCGARP, &known) && errno != ENXIO)
			fail("SIOCGARP");
	}
	if (!(known.arp_flags & ATF_COM) || ioctl(fd, SIOCGIFHWADDR, &device))
		fail("the target is no neighbour");
	memcpy(to->link.ether_dhost, known.arp_ha.sa_data, ETH_ALEN);
	memcpy(to->link.ether_shost, device.ifr_hwaddr.sa_data, ETH_ALEN);
	to->link.ether_type = htons(ETHERTYPE_IP);
	to->device = if_nametoindex(device.ifr_name);
	close(fd);
}

static int open_device(const struct target *to)
{
	struct sockaddr_ll where = { .sll_family = AF_PACKET, .sll_ifindex = to->device };
	int fd = socket(AF_PACKET, SOCK_RAW, 0), yes = 1; /* 0: it receives nothing */

	if (fd < 0 || bind(fd, (void *)&where, sizeof(where)) || setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof(yes)))
		fail("packet socket");
	return fd;
}

static int open_socket(const struct target *to)
{
	int fd = to->address ? open_device(to) : socket(AF_INET, SOCK_DGRAM, 0);

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
		find_neighbour(&to);
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
