/* SPDX-License-Identifier: Apache-2.0
 *
 * Sends and receives in each way that a program can, and counts what the system calls say: test_byte_accuracy.py.
 *
 *     counted WAY connect ADDRESS PORT BYTES    TCP, to a server that sends everything back
 *     counted WAY accept ADDRESS PORT BYTES     TCP, from one client that does; "port N" is said first
 *     counted WAY udp ADDRESS PORT BYTES        a connected datagram socket
 *     counted WAY sendto ADDRESS PORT BYTES     one that is not connected
 *
 * At its end, a line: its own port, bytes sent, bytes received.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHUNK 65536
#define BATCH 16     /* datagrams on their way at once */
#define DATAGRAM 1200
#define LARGE 20000  /* a datagram that goes in fragments */
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

#define TRY(call) ({ long done = (call); if (done < 0) fail(#call); done; })

static char out[CHUNK], in[CHUNK];

/* --- io_uring, one request at a time, by raw system calls ------------------------------------------------- */

struct ring {
	int fd;
	unsigned *tail, *array, mask, *head, *end, completions;
	struct io_uring_sqe *entries;
	struct io_uring_cqe *results;
};

static void ring_open(struct ring *r)
{
	struct io_uring_params p = { 0 };
	char *queue, *done;

	r->fd = TRY(syscall(__NR_io_uring_setup, 8, &p));
	queue = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQ_RING);
	done = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(*r->results), PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_CQ_RING);
	r->entries = mmap(NULL, p.sq_entries * sizeof(*r->entries), PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQES);
	if (queue == MAP_FAILED || done == MAP_FAILED || r->entries == MAP_FAILED)
		fail("mmap of a ring");
	r->tail = (void *)(queue + p.sq_off.tail);
	r->array = (void *)(queue + p.sq_off.array);
	r->mask = *(unsigned *)(queue + p.sq_off.ring_mask);
	r->head = (void *)(done + p.cq_off.head);
	r->completions = *(unsigned *)(done + p.cq_off.ring_mask);
	r->results = (void *)(done + p.cq_off.cqes);
}

static long ring_do(struct ring *r, int operation, int fd, const void *address, unsigned length, __u64 offset)
{
	unsigned at = *r->tail & r->mask, head = *r->head;
	struct io_uring_cqe *result = &r->results[head & r->completions];
	struct io_uring_sqe *entry = &r->entries[at];
	long done;

	memset(entry, 0, sizeof(*entry));
	entry->opcode = operation;
	entry->flags = IOSQE_ASYNC; /* by a worker thread of the kernel */
	entry->fd = fd;
	entry->addr = (unsigned long)address;
	entry->len = length;
	entry->off = offset;
	r->array[at] = at;
	__atomic_store_n(r->tail, *r->tail + 1, __ATOMIC_RELEASE);
	TRY(syscall(__NR_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0));
	done = result->res;
	__atomic_store_n(r->head, head + 1, __ATOMIC_RELEASE);
	if (done < 0) {
		errno = -done;
		fail("io_uring");
	}
	return done;
}

/* --- streams ----------------------------------------------------------------------------------------------- */

struct stream {
	int fd;
	const char *way;
	long bytes, sent, received;
};

static int is(const struct stream *s, const char *way)
{
	return !strcmp(s->way, way);
}

static void send_all(struct stream *s)
{
	struct iovec parts[2] = { { out, 1000 }, { out + 1000, CHUNK - 1000 } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
	int file = -1, through[2], one = 1, all = 2 * s->bytes;
	struct ring ring;

	if (is(s, "sendfile") || is(s, "splice")) {
		file = TRY(memfd_create("file", 0));
		TRY(ftruncate(file, s->bytes));
	}
	if (is(s, "splice"))
		TRY(pipe(through));
	if (is(s, "io_uring"))
		ring_open(&ring);
	if (is(s, "zerocopy"))
		TRY(setsockopt(s->fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)));
	if (is(s, "leave"))
		TRY(setsockopt(s->fd, SOL_SOCKET, SO_SNDBUFFORCE, &all, sizeof(all)));
	while (s->sent < s->bytes) {
		long left = s->bytes - s->sent, size = left < CHUNK ? left : CHUNK;

		if (is(s, "sendfile")) {
			s->sent += TRY(sendfile(s->fd, file, NULL, left));
		} else if (is(s, "splice")) {
			long there = TRY(splice(file, NULL, through[1], NULL, size, 0));

			while (there) {
				long done = TRY(splice(through[0], NULL, s->fd, NULL, there, SPLICE_F_MORE));
				there -= done;
				s->sent += done;
			}
		} else if (is(s, "io_uring")) {
			s->sent += ring_do(&ring, IORING_OP_SEND, s->fd, out, size, 0);
		} else if (is(s, "zerocopy")) {
			s->sent += TRY(send(s->fd, out, size, MSG_ZEROCOPY));
		} else if (is(s, "sendmmsg") && size == CHUNK) {
			struct mmsghdr two[2] = { { .msg_hdr = message }, { .msg_hdr = message } };
			int done = TRY(sendmmsg(s->fd, two, left < 2 * CHUNK ? 1 : 2, 0));

			for (int i = 0; i < done; i++)
				s->sent += two[i].msg_len;
		} else {
			s->sent += TRY(write(s->fd, out, size));
		}
	}
}

static void *receive_all(void *of)
{
	struct stream *s = of;
	int through[2], nowhere = TRY(open("/dev/null", O_WRONLY));
	struct ring ring;
	long done = 1;

	if (is(s, "splice"))
		TRY(pipe(through));
	if (is(s, "io_uring"))
		ring_open(&ring);
	for (; s->received < s->bytes && done; s->received += done) {
		if (is(s, "splice")) {
			done = TRY(splice(s->fd, NULL, through[1], NULL, CHUNK, 0));
			for (long left = done; left;)
				left -= TRY(splice(through[0], NULL, nowhere, NULL, left, 0));
		} else if (is(s, "io_uring")) {
			done = ring_do(&ring, IORING_OP_RECV, s->fd, in, CHUNK, 0);
		} else if (is(s, "sendmmsg")) {
			struct iovec part = { in, CHUNK };
			struct mmsghdr one = { .msg_hdr = { .msg_iov = &part, .msg_iovlen = 1 } };

			TRY(recvmmsg(s->fd, &one, 1, 0, NULL));
			done = one.msg_len;
		} else {
			done = TRY(read(s->fd, in, CHUNK));
		}
	}
	return NULL;
}

static void exchange(struct stream *s)
{
	struct linger at_once = { 1, 0 };
	pthread_t reader;

	if (is(s, "half")) { /* all there, then all back: what is half closed goes on */
		send_all(s);
		TRY(shutdown(s->fd, SHUT_WR));
		receive_all(s);
	} else if (is(s, "leave")) { /* while most of it still waits to be sent */
		send_all(s);
	} else {
		pthread_create(&reader, NULL, receive_all, s);
		send_all(s);
		pthread_join(reader, NULL);
	}
	if (is(s, "reset"))
		TRY(setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)));
	close(s->fd);
}

/* --- datagrams --------------------------------------------------------------------------------------------- */

/* At most `count` datagrams; what does not come within the time of the socket is lost. Returns their bytes. */
static long hear(int fd, const char *way, int count, long least)
{
	long heard = 0;

	while (heard < least) {
		long done;

		if (!strcmp(way, "sendmmsg")) {
			static char room[BATCH][2 * DATAGRAM];
			struct mmsghdr many[BATCH] = { 0 };
			struct iovec parts[BATCH];

			for (int i = 0; i < BATCH; i++) {
				parts[i] = (struct iovec){ room[i], sizeof(room[i]) };
				many[i].msg_hdr.msg_iov = &parts[i];
				many[i].msg_hdr.msg_iovlen = 1;
			}
			done = recvmmsg(fd, many, count, MSG_WAITFORONE, NULL);
			if (done < 0 && errno == EINTR)
				continue;
			if (done < 0)
				break;
			for (int i = done - 1; i >= 0; i--)
				heard += many[i].msg_len;
			continue;
		}
		done = recv(fd, in, CHUNK, 0);
		if (done < 0 && errno == EINTR)
			continue; /* of a socket with a time-out no call is begun again: io_uring's workers interrupt it */
		if (done < 0)
			break;
		heard += done;
	}
	return heard;
}

static void tell(int fd, long sent, long received)
{
	struct sockaddr_in6 own;
	socklen_t length = sizeof(own);

	TRY(getsockname(fd, (void *)&own, &length));
	printf("%d %ld %ld\n", ntohs(own.sin6_port), sent, received);
	fflush(stdout);
}

/* Echoes in batches, so that none is lost where a buffer is small. `to` is NULL for a socket with a peer. */
static void converse(int fd, const char *way, const struct sockaddr *to, socklen_t length, long bytes, long *sent, long *received)
{
	int segment = DATAGRAM, one = 1, size = strcmp(way, "fragments") ? DATAGRAM : LARGE, count = size == LARGE ? 1 : BATCH;
	struct ring ring;

	if (!strcmp(way, "gso")) {
		TRY(setsockopt(fd, SOL_UDP, UDP_SEGMENT, &segment, sizeof(segment)));
		TRY(setsockopt(fd, SOL_UDP, UDP_GRO, &one, sizeof(one)));
	}
	if (!strcmp(way, "io_uring"))
		ring_open(&ring);
	while (*sent < bytes) {
		struct iovec part = { out, size };
		struct msghdr message = { .msg_name = (void *)to, .msg_namelen = length, .msg_iov = &part, .msg_iovlen = 1 };
		long before = *sent;

		if (!strcmp(way, "gso")) {
			part.iov_len = count * DATAGRAM;
			*sent += TRY(sendmsg(fd, &message, 0));
		} else if (!strcmp(way, "sendmmsg")) {
			struct mmsghdr many[BATCH];

			for (int i = 0; i < count; i++)
				many[i].msg_hdr = message;
			count = TRY(sendmmsg(fd, many, count, 0));
			for (int i = 0; i < count; i++)
				*sent += many[i].msg_len;
		} else if (!strcmp(way, "io_uring")) {
			for (int i = 0; i < count; i++)
				*sent += ring_do(&ring, IORING_OP_SENDMSG, fd, &message, 1, 0);
		} else {
			for (int i = 0; i < count; i++)
				*sent += TRY(sendto(fd, out, size, 0, to, length));
		}
		*received += hear(fd, way, count, *sent - before);
	}
}

/* --- both -------------------------------------------------------------------------------------------------- */

static socklen_t address_of(struct sockaddr_storage *at, const char *address, int port)
{
	struct sockaddr_in6 *six = (void *)at;
	struct sockaddr_in *four = (void *)at;

	memset(at, 0, sizeof(*at));
	if (inet_pton(AF_INET, address, &four->sin_addr)) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		return sizeof(*four);
	}
	if (!inet_pton(AF_INET6, address, &six->sin6_addr))
		exit(2);
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(port);
	return sizeof(*six);
}

static void stream_to(const char *way, const struct sockaddr_storage *to, socklen_t length, long bytes, int accepting)
{
	int protocol = strcmp(way, "mptcp") ? IPPROTO_TCP : IPPROTO_MPTCP;
	struct stream s = { TRY(socket(to->ss_family, SOCK_STREAM, protocol)), way, bytes, 0, 0 };
	struct sockaddr_storage own;
	int listener = s.fd;
	socklen_t room = sizeof(own);
	struct ring ring;

	if (accepting) {
		TRY(bind(listener, (void *)to, length));
		TRY(listen(listener, 1));
		TRY(getsockname(listener, (void *)&own, &room));
		printf("port %d\n", ntohs(((struct sockaddr_in6 *)&own)->sin6_port));
		fflush(stdout);
		s.fd = TRY(accept(listener, NULL, NULL));
	} else if (is(&s, "io_uring")) {
		ring_open(&ring);
		ring_do(&ring, IORING_OP_CONNECT, s.fd, to, 0, length);
	} else if (is(&s, "fastopen")) {
		s.sent = TRY(sendto(s.fd, out, 1000, MSG_FASTOPEN, (void *)to, length));
	} else {
		TRY(connect(s.fd, (void *)to, length));
	}
	room = sizeof(own);
	TRY(getsockname(s.fd, (void *)&own, &room)); /* a connection that is reset has no port any more */
	exchange(&s);
	printf("%d %ld %ld\n", ntohs(((struct sockaddr_in6 *)&own)->sin6_port), s.sent, s.received);
}

static void datagrams_to(const char *way, const struct sockaddr_storage *to, socklen_t length, long bytes, int connected)
{
	struct timeval patience = { 5, 0 };
	long sent = 0, received = 0;
	int fd = TRY(socket(to->ss_family, SOCK_DGRAM, 0));

	TRY(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
	if (connected)
		TRY(connect(fd, (void *)to, length));
	converse(fd, way, connected ? NULL : (void *)to, connected ? 0 : length, bytes, &sent, &received);
	tell(fd, sent, received);
}

int main(int count, char **word)
{
	struct sockaddr_storage to;
	socklen_t length;

	if (count < 6)
		return 2;
	length = address_of(&to, word[3], atoi(word[4]));
	if (!strcmp(word[2], "connect") || !strcmp(word[2], "accept"))
		stream_to(word[1], &to, length, atol(word[5]), word[2][0] == 'a');
	else
		datagrams_to(word[1], &to, length, atol(word[5]), !strcmp(word[2], "udp"));
	return 0;
}
