/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The few kernel structures that we look into, with only the fields that we read: CO-RE finds the real
 * offsets when the objects are loaded. vmlinux.h would say the same in 600 KB.
 */
#ifndef TIDEWAITER_KERNEL_H
#define TIDEWAITER_KERNEL_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

#define AF_INET 2
#define AF_INET6 10
#define AF_PACKET 17
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262
#define SOCK_RAW 3
#define ETH_P_IP 0x0800
#define TCP_TIME_WAIT 6 /* states: include/net/tcp_states.h */
#define TCP_CLOSE 7
#define TCP_FIN 1 /* flags: RFC 9293 §3.1 */
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block {
	__u32 s_dev;
};
struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
};
struct qstr {
	__u32 len;
	const unsigned char *name;
};
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
};
struct vfsmount {
	struct dentry *mnt_root;
};
struct user_namespace {
	int level;
};
struct mnt_namespace {
	struct user_namespace *user_ns;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file {
	struct inode *f_inode;
	struct path f_path;
};
struct mm_struct {
	struct file *exe_file;
	unsigned long arg_start, arg_end;
};
struct fs_struct {
	struct path root;
};
struct task_struct {
	int tgid;
	__u64 start_boottime;
	__u64 self_exec_id;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct mm_struct *mm;
	struct fs_struct *fs;
};
struct socket {
	struct file *file;
};
struct net {
	__u64 net_cookie;
};
typedef struct {
	struct net *net;
} possible_net_t;
struct sock_common {
	unsigned short skc_family;
	unsigned long skc_flags;
	possible_net_t skc_net;
};
struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
};
struct packet_sock {
	int ifindex;
};
struct tcp_sock {
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u64 bytes_received;
};

#pragma clang attribute pop

#endif
