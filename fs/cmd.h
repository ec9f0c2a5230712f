/*
 * cmd.h - the program's commands, one function each, listed in main.c.
 *
 * A command gets argv with its own name as argv[0] and returns the exit code: CMD_OK, CMD_FAIL
 * (it was tried and did not work, or the answer is no), CMD_USAGE (wrong arguments). Only
 * commands write to the standard streams or exit.
 */
#ifndef FS_CMD_H
#define FS_CMD_H

enum cmd_exit { CMD_OK = 0, CMD_FAIL = 1, CMD_USAGE = 2 };

/* cmd_mount.c: run a slot; the second is mount(8)'s helper, `SLOT.conf MOUNTPOINT -o opts`. */
int cmd_mount(int argc, char **argv);
int cmd_mount_helper(int argc, char **argv);
/* cmd_umount.c: drain, prove, unmount; the second is umount(8)'s helper. */
int cmd_umount(int argc, char **argv);
int cmd_umount_helper(int argc, char **argv);
/* cmd_ctl.c: clients of the control socket. */
int cmd_status(int argc, char **argv);
int cmd_wait(int argc, char **argv);
int cmd_continue(int argc, char **argv);
/* cmd_keygen.c */
int cmd_keygen(int argc, char **argv);
/* cmd_dump.c, cmd_fsck.c: the codecs without a mount. */
int cmd_dump(int argc, char **argv);
int cmd_fsck(int argc, char **argv);

#endif
