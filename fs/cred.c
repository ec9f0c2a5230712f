/*
 * cred.c - filesystem ids by the raw system calls, which are per thread.
 *
 * setfsuid away from 0 drops the file capabilities from the effective set, unless the thread's secure
 * bits say that it shall not: so they do, where that may be set (CAP_SETPCAP), and it is one system call.
 * Elsewhere what is needed is raised again from the permitted set. Either way setfsuid back to 0 leaves
 * all of them.
 *
 * The group stays what the last caller's was: only what makes something looks at it, and that asks for
 * the one it wants.
 *
 * CAP_SYS_RESOURCE is none of those and stays dropped: with it a filesystem gives its root's reserve
 * and more than a quota allows. Who acts as root still gets ext4's reserve by his fsuid.
 */
#include "fs/cred.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIT(cap) (1u << (cap))

static _Thread_local uid_t uid_now;
static _Thread_local gid_t gid_now;
static _Thread_local mode_t mask_now;
static _Thread_local bool stay_raised;

/* In the effective set of this thread. */
static void
change(uint32_t raise, uint32_t drop)
{
	struct __user_cap_header_struct head = { .version =
							 _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data) != 0)
		return;
	data[0].effective |= data[0].permitted & raise;
	data[0].effective &= ~drop;
	(void)syscall(SYS_capset, &head, data);
}

void
cred_thread(void)
{
	(void)unshare(CLONE_FS);
	umask(0);
	change(0, BIT(CAP_SYS_RESOURCE));
	int bits = prctl(PR_GET_SECUREBITS);
	stay_raised = bits >= 0 &&
		      prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP) == 0;
}

void
cred_enter(uid_t uid, gid_t gid, mode_t mask)
{
	if (mask != mask_now) {
		umask(mask);
		mask_now = mask;
	}
	if (gid != gid_now) {
		setfsgid(gid);
		gid_now = gid;
	}
	if (uid != uid_now) {
		setfsuid(uid);
		uid_now = uid;
		if (!stay_raised)
			change(BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH) |
					BIT(CAP_FOWNER) | BIT(CAP_FSETID) |
					BIT(CAP_MKNOD),
				0);
	}
}

void
cred_leave(void)
{
	if (uid_now != 0) {
		setfsuid(0);
		uid_now = 0;
	}
}
