/* SPDX-License-Identifier: Apache-2.0
 *
 * Held packets in, verdicts out, many at a time. Twin and description of the format: tidewaiter.host.queue.
 * The buffers are static: one thread at a time receives (the engine's), and answers are sent under the
 * interpreter's lock.
 */
#define _GNU_SOURCE
#include "native.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define MESSAGES 32
#define MESSAGE_SIZE (65536 + 1024)
#define VERDICT_SIZE 32
#define HOOK_LOCAL_IN 1

static unsigned char messages[MESSAGES][MESSAGE_SIZE];
static unsigned char verdicts[MESSAGES * VERDICT_SIZE];

/* The index of an interface in an attribute; what was before if it is too short for one. */
static __u32 index_of(const struct nlattr *attribute, __u32 before)
{
	__be32 index;

	if (attribute->nla_len < NLA_HDRLEN + sizeof(index))
		return before;
	memcpy(&index, (const unsigned char *)attribute + NLA_HDRLEN, sizeof(index));
	return ntohl(index);
}

/* Appends (packet id, hook, flow, payload, interface) for a packet message. 0, or -1 with an exception set. */
static int take(PyObject *list, const unsigned char *message, size_t size, __u32 namespace)
{
	const struct nlmsghdr *header = (const void *)message;
	const struct nfqnl_msg_packet_hdr *packet = NULL;
	const unsigned char *payload = NULL, *at, *end;
	__u32 came_in = 0, goes_out = 0;
	size_t payload_size = 0;
	unsigned char flow[FLOW_SIZE];
	PyObject *item;
	int known;

	if (size < NLMSG_HDRLEN + sizeof(struct nfgenmsg) || header->nlmsg_len > size ||
	    header->nlmsg_len < NLMSG_HDRLEN + sizeof(struct nfgenmsg) ||
	    header->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
		return 0;
	at = message + NLMSG_HDRLEN + sizeof(struct nfgenmsg);
	end = message + header->nlmsg_len;
	while (end - at >= NLA_HDRLEN) {
		const struct nlattr *attribute = (const void *)at;
		size_t room = end - at;

		if (attribute->nla_len < NLA_HDRLEN || attribute->nla_len > room)
			break;
		switch (attribute->nla_type & NLA_TYPE_MASK) {
		case NFQA_PACKET_HDR:
			if (attribute->nla_len >= NLA_HDRLEN + sizeof(*packet))
				packet = (const void *)(at + NLA_HDRLEN);
			break;
		case NFQA_IFINDEX_INDEV:
			came_in = index_of(attribute, came_in);
			break;
		case NFQA_IFINDEX_OUTDEV:
			goes_out = index_of(attribute, goes_out);
			break;
		case NFQA_PAYLOAD:
			payload = at + NLA_HDRLEN;
			payload_size = attribute->nla_len - NLA_HDRLEN;
			break;
		}
		if ((size_t)NLA_ALIGN(attribute->nla_len) >= room)
			break;
		at += NLA_ALIGN(attribute->nla_len);
	}
	if (!packet)
		return 0;
	known = flow_of(payload, payload_size, namespace, packet->hook == HOOK_LOCAL_IN, flow) == 0;
	item = Py_BuildValue("IBy#y#I", ntohl(packet->packet_id), packet->hook, flow, (Py_ssize_t)(known ? FLOW_SIZE : 0),
			     payload ? payload : (const void *)"", (Py_ssize_t)payload_size,
			     packet->hook == HOOK_LOCAL_IN ? came_in : goes_out);
	if (!item)
		return -1;
	known = PyList_Append(list, item);
	Py_DECREF(item);
	return known;
}

/* recvmmsg, tried again for a moment when nothing is there. Whoever else wants this processor goes first. */
static int receive_soon(int fd, struct mmsghdr *batch, int microseconds)
{
	struct timespec start, now;
	int count = recvmmsg(fd, batch, MESSAGES, MSG_DONTWAIT, NULL);

	if (count >= 0 || errno != EAGAIN || !microseconds)
		return count;
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		sched_yield();
		count = recvmmsg(fd, batch, MESSAGES, MSG_DONTWAIT, NULL);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (count < 0 && errno == EAGAIN &&
		 (now.tv_sec - start.tv_sec) * 1000000 + (now.tv_nsec - start.tv_nsec) / 1000 < microseconds);
	return count;
}

PyObject *native_receive(PyObject *self, PyObject *args)
{
	static struct mmsghdr batch[MESSAGES];
	static struct iovec spans[MESSAGES];
	int fd, microseconds, count, i, failure;
	unsigned namespace;
	PyObject *list;

	if (!PyArg_ParseTuple(args, "iIi:receive", &fd, &namespace, &microseconds))
		return NULL;
	if (!spans[0].iov_base) {
		for (i = 0; i < MESSAGES; i++) {
			spans[i].iov_base = messages[i];
			spans[i].iov_len = MESSAGE_SIZE;
			batch[i].msg_hdr.msg_iov = &spans[i];
			batch[i].msg_hdr.msg_iovlen = 1;
		}
	}
	Py_BEGIN_ALLOW_THREADS
	count = receive_soon(fd, batch, microseconds);
	failure = errno;
	Py_END_ALLOW_THREADS
	if (count < 0) {
		errno = failure;
		if (errno != EAGAIN && errno != EINTR)
			return PyErr_SetFromErrno(PyExc_OSError);
		count = 0;
	}
	list = PyList_New(0);
	for (i = 0; list && i < count; i++) {
		if (take(list, messages[i], batch[i].msg_len, namespace)) {
			Py_DECREF(list);
			return NULL;
		}
	}
	return list;
}

static void put_verdict(unsigned char *to, unsigned queue, unsigned long packet, unsigned long verdict)
{
	struct nlmsghdr *header = (void *)to;
	struct nfgenmsg *general = (void *)(to + NLMSG_HDRLEN);
	struct nlattr *attribute = (void *)(to + NLMSG_HDRLEN + sizeof(*general));
	struct nfqnl_msg_verdict_hdr *answer = (void *)((unsigned char *)attribute + NLA_HDRLEN);

	memset(to, 0, VERDICT_SIZE);
	header->nlmsg_len = VERDICT_SIZE;
	header->nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT;
	header->nlmsg_flags = NLM_F_REQUEST;
	general->res_id = htons(queue);
	attribute->nla_len = NLA_HDRLEN + sizeof(*answer);
	attribute->nla_type = NFQA_VERDICT_HDR;
	answer->verdict = htonl(verdict);
	answer->id = htonl(packet);
}

PyObject *native_answer(PyObject *self, PyObject *args)
{
	PyObject *answers;
	Py_ssize_t count, at = 0;
	unsigned queue;
	int fd;

	if (!PyArg_ParseTuple(args, "iIO!:answer", &fd, &queue, &PyList_Type, &answers))
		return NULL;
	count = PyList_Size(answers);
	while (at < count) {
		size_t filled = 0;

		for (; at < count && filled < sizeof(verdicts); at++, filled += VERDICT_SIZE) {
			unsigned long packet, verdict;

			if (!PyArg_ParseTuple(PyList_GetItem(answers, at), "kk:answer", &packet, &verdict))
				return NULL;
			put_verdict(verdicts + filled, queue, packet, verdict);
		}
		if (send(fd, verdicts, filled, 0) < 0)
			return PyErr_SetFromErrno(PyExc_OSError);
	}
	Py_RETURN_NONE;
}
