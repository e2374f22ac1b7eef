/* SPDX-License-Identifier: Apache-2.0
 *
 * The load of the benchmarks: small enough that what is measured is the kernel's path and what stands in it.
 *
 *   load accept PORT                    accepts and closes connections until killed; "ready" when it listens
 *   load sink PORT                      reads and throws away
 *   load connect ADDRESS PORT COUNT     connects and closes, one after the other; prints nanoseconds of each connect()
 *   load stream ADDRESS PORT SECONDS    sends as much as it can in one connection; prints bytes per second
 *   load datagrams ADDRESS PORT SECONDS SIZE connected|unconnected
 *                                       sends datagrams that nobody answers; prints datagrams per second
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

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

static socklen_t address(struct sockaddr_storage *to, const char *text, int port)
{
	struct sockaddr_in *four = (void *)to;
	struct sockaddr_in6 *six = (void *)to;

	memset(to, 0, sizeof(*to));
	if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		return sizeof(*four);
	}
	if (inet_pton(AF_INET6, text, &six->sin6_addr) != 1)
		fail("address");
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(port);
	return sizeof(*six);
}

static int listen_on(int port)
{
	struct sockaddr_storage to;
	socklen_t size = address(&to, "::", port);
	int one = 1, fd = socket(AF_INET6, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (void *)&to, size) || listen(fd, 4096))
		fail("listen");
	puts("ready");
	fflush(stdout);
	return fd;
}

static void serve(int port, int reads)
{
	static char data[1 << 20];
	int listener = listen_on(port);

	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			continue;
		while (reads && read(fd, data, sizeof(data)) > 0)
			;
		close(fd);
	}
}

static void connects(const char *text, int port, long count)
{
	struct sockaddr_storage to;
	socklen_t size = address(&to, text, port);
	struct linger reset = { .l_onoff = 1, .l_linger = 0 }; /* no TIME_WAIT: ports do not run out */
	long *took = calloc(count, sizeof(long)), begin = now();

	for (long i = 0; i < count; i++) {
		int fd = socket(to.ss_family, SOCK_STREAM, 0);
		long start = now();

		if (connect(fd, (void *)&to, size))
			fail("connect");
		took[i] = now() - start;
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
	}
	printf("%ld\n", now() - begin);
	for (long i = 0; i < count; i++)
		printf("%ld\n", took[i]);
}

static void stream(const char *text, int port, double seconds)
{
	static char data[1 << 18];
	struct sockaddr_storage to;
	socklen_t size = address(&to, text, port);
	int fd = socket(to.ss_family, SOCK_STREAM, 0);
	long begin, end, sent = 0;

	if (connect(fd, (void *)&to, size))
		fail("connect");
	begin = now();
	end = begin + seconds * 1e9;
	while (now() < end) {
		ssize_t done = write(fd, data, sizeof(data));

		if (done < 0)
			fail("write");
		sent += done;
	}
	printf("%.0f\n", sent / ((now() - begin) / 1e9));
	close(fd);
}

static void datagrams(const char *text, int port, double seconds, int length, int connected)
{
	char data[1500] = { 0 };
	struct sockaddr_storage to;
	socklen_t size = address(&to, text, port);
	int fd = socket(to.ss_family, SOCK_DGRAM, 0);
	long begin = now(), end = begin + seconds * 1e9, sent = 0;

	if (connected && connect(fd, (void *)&to, size))
		fail("connect");
	while (sent % 64 || now() < end) {
		if (sendto(fd, data, length, 0, connected ? NULL : (void *)&to, connected ? 0 : size) < 0 &&
		    errno != ENOBUFS && errno != ECONNREFUSED)
			fail("sendto");
		sent++;
	}
	printf("%.0f\n", sent / ((now() - begin) / 1e9));
}

int main(int count, char **word)
{
	if (count == 3 && !strcmp(word[1], "accept"))
		serve(atoi(word[2]), 0);
	else if (count == 3 && !strcmp(word[1], "sink"))
		serve(atoi(word[2]), 1);
	else if (count == 5 && !strcmp(word[1], "connect"))
		connects(word[2], atoi(word[3]), atol(word[4]));
	else if (count == 5 && !strcmp(word[1], "stream"))
		stream(word[2], atoi(word[3]), atof(word[4]));
	else if (count == 7 && !strcmp(word[1], "datagrams"))
		datagrams(word[2], atoi(word[3]), atof(word[4]), atoi(word[5]), !strcmp(word[6], "connected"));
	else
		return fprintf(stderr, "see the head of load.c\n"), 2;
	return 0;
}
