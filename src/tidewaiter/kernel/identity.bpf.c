/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Who are we? Run once by the firewall itself (BPF_PROG_TEST_RUN): its process id as the kernel knows it, so that its
 * own traffic is never held, and its root directory, so that paths are told as it would read them.
 */
#include "maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("syscall")
int tw_identity(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct tw_config *settings = tw_config();

	if (!settings)
		return 1;
	settings->own_pid = bpf_get_current_pid_tgid() >> 32;
	settings->own_started = task->group_leader->start_boottime;
	settings->root = (__u64)BPF_CORE_READ(task, fs, root.dentry);
	return 0;
}
