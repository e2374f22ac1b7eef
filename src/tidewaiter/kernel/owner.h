/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Who is it? Runs in the program's own context (connect, sendmsg, bind, listen), so that a program that
 * lives for a millisecond is known as well as any other.
 */
#ifndef TIDEWAITER_OWNER_H
#define TIDEWAITER_OWNER_H

#include "maps.h"

#define TW_DEPTH 48 /* directories and mounts walked for one path */

/* A walk from an executable up to the root: over directories, and over mount points. */
struct tw_walk {
	struct tw_process *record;
	struct dentry *dentry;
	struct mount *mount;
	__u64 root;
	__u32 at; /* index in record->path of what has been written so far */
};

static long tw_step(__u32 step, struct tw_walk *walk)
{
	struct dentry *dentry = walk->dentry, *parent;
	struct mount *mount = walk->mount;
	__u32 length, at = walk->at;

	if ((__u64)dentry == walk->root)
		goto whole;
	if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
		struct mount *below = BPF_CORE_READ(mount, mnt_parent);

		if (below == mount)
			goto whole;
		walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		walk->mount = below;
		return 0;
	}
	parent = BPF_CORE_READ(dentry, d_parent);
	if (parent == dentry)
		goto whole;
	length = BPF_CORE_READ(dentry, d_name.len) & 255;
	if (at < length + 1 || at > TW_PATH)
		return 1;
	at -= length;
	/* the room behind `path` is `arguments`, not filled yet: a name may never end past it */
	bpf_probe_read_kernel(&walk->record->path[at & (TW_PATH - 1)], length, BPF_CORE_READ(dentry, d_name.name));
	at -= 1;
	walk->record->path[at & (TW_PATH - 1)] = '/';
	walk->at = at;
	walk->dentry = parent;
	return 0;
whole:
	walk->record->truncated = 0;
	return 1;
}

/* Whether a file was reached by mounts that root has made. Everybody may have a user namespace, and mount in it what he likes
 * where he likes; what is mounted nowhere any more, or is no file of any tree, is nobody's. */
static __always_inline int tw_is_mounted_by_root(struct mount *mount)
{
	struct user_namespace *users = BPF_CORE_READ(mount, mnt_ns, user_ns);

	return users && !BPF_CORE_READ(users, level);
}

/* Writes the path of an executable, as the firewall's root sees it, to the end of record->path: the same
 * answer as readlink(/proc/PID/exe). */
static __always_inline void tw_path_of(struct tw_process *record, struct file *executable, __u64 root)
{
	struct vfsmount *mounted = BPF_CORE_READ(executable, f_path.mnt);
	struct tw_walk walk = { .record = record, .root = root, .at = TW_PATH };

	walk.dentry = BPF_CORE_READ(executable, f_path.dentry);
	walk.mount = (void *)mounted - bpf_core_field_offset(struct mount, mnt);
	record->truncated = 1;
	record->foreign = !tw_is_mounted_by_root(walk.mount);
	bpf_loop(TW_DEPTH, tw_step, &walk, 0);
	record->path_start = walk.at;
}

static __always_inline void tw_fill_process(struct tw_process *record, struct task_struct *task, struct file *executable, __u64 root)
{
	struct mm_struct *mm = task->mm;
	unsigned long start = mm->arg_start, length = mm->arg_end - mm->arg_start;
	struct task_struct *ancestor = task;

	record->inode = executable ? BPF_CORE_READ(executable, f_inode, i_ino) : 0;
	record->device = executable ? BPF_CORE_READ(executable, f_inode, i_sb, s_dev) : 0;
	record->path_start = TW_PATH;
	record->foreign = 0;
	__builtin_memset(record->path, 0, sizeof(record->path));
	if (executable)
		tw_path_of(record, executable, root);
	if (length > TW_ARGUMENTS)
		length = TW_ARGUMENTS;
	record->arguments_length = length;
	if (bpf_probe_read_user(record->arguments, length, (void *)start))
		record->arguments_length = 0;
	for (int i = 0; i < TW_PARENTS; i++) {
		ancestor = BPF_CORE_READ(ancestor, real_parent);
		__u32 pid = ancestor ? BPF_CORE_READ(ancestor, tgid) : 0;
		record->parents[i] = pid;
		if (pid <= 1)
			break;
	}
	record->programs_version = 0;
}

static __always_inline struct tw_process *tw_process_of(struct tw_config *settings, __u32 pid, struct task_struct *task)
{
	struct tw_process *record = bpf_map_lookup_elem(&processes, &pid);
	struct file *executable = task->mm ? task->mm->exe_file : NULL;
	__u64 started = task->group_leader->start_boottime;
	__u32 image = task->self_exec_id;
	__u32 zero = 0;

	if (!task->mm) /* a kernel thread is no program */
		return NULL;
	if (!record || record->started != started || record->image != image) {
		if (!record) {
			struct tw_process *blank = bpf_map_lookup_elem(&blank_process, &zero);
			if (!blank)
				return NULL;
			bpf_map_update_elem(&processes, &pid, blank, BPF_ANY);
			record = bpf_map_lookup_elem(&processes, &pid);
			if (!record)
				return NULL;
		}
		record->started = started;
		record->image = image;
		tw_fill_process(record, task, executable, settings->root);
	}
	tw_number(record, settings);
	return record;
}

/* The current task as the owner of a socket. A separate function: it is long, and called once a connection. */
__noinline int tw_current_owner(struct tw_owner *owner)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct tw_config *settings = tw_config();
	struct tw_process *record;
	__u64 ids = bpf_get_current_uid_gid();

	if (!settings || !owner)
		return 0;
	owner->pid = bpf_get_current_pid_tgid() >> 32;
	owner->uid = ids;
	owner->gid = ids >> 32;
	owner->cgroup = bpf_get_current_cgroup_id();
	owner->started = task->group_leader->start_boottime;
	owner->image = task->self_exec_id;
	owner->version = settings->programs_version;
	record = tw_process_of(settings, owner->pid, task);
	owner->program = record ? record->program : TW_ANY;
	return 1;
}

#endif
