/*
 * ex_xattr - extended attributes and access control lists; with xattr=no, that they are
 * refused in the way that ordinary programs take for "this file system has none".
 */
#include "tests/mount/ex.h"

#include <sys/xattr.h>

#define NEED_XATTR() \
	do { \
		if (!ex_xattr) \
			SKIP("xattr=no"); \
	} while (0)

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"

CASE(refused_cleanly)
{
	char b[256];

	if (ex_xattr)
		SKIP("xattr=yes");
	PUT("f", "x");
	for (int round = 0; round < 2; round++) {
		FAILS(setxattr("f", "user.a", "1", 1, 0), EOPNOTSUPP);
		FAILS(getxattr("f", "user.a", b, sizeof b), EOPNOTSUPP);
		FAILS(removexattr("f", "user.a"), EOPNOTSUPP);
		FAILS(setxattr("f", "trusted.a", "1", 1, 0), EOPNOTSUPP);
		/* newer kernels answer this one themselves: there is no list */
		CHECK(getxattr("f", ACL_ACCESS, b, sizeof b) < 0 &&
			(errno == EOPNOTSUPP || errno == ENODATA));
		ssize_t n = listxattr("f", b, sizeof b);
		CHECK(n == 0 || (n < 0 && errno == EOPNOTSUPP));
	}
	/* and the usual tools do not mind */
	SAME(system("ls -l f >/dev/null && cp -a f g && cmp f g && getfacl -c f "
		    ">/dev/null "
		    "&& mv g h && tar cf - f | tar xOf - >/dev/null"),
		0);
	CHECK(system("setfacl -m u:1:r f 2>/dev/null") != 0);
}

CASE(user_attributes)
{
	char b[256];

	NEED_XATTR();
	PUT("f", "x");
	SAME(listxattr("f", NULL, 0), 0);
	FAILS(getxattr("f", "user.a", b, sizeof b), ENODATA);
	MUST(setxattr("f", "user.a", "value", 5, 0));
	SAME(getxattr("f", "user.a", b, sizeof b), 5);
	SAME(memcmp(b, "value", 5), 0);
	SAME(getxattr("f", "user.a", NULL, 0), 5);
	FAILS(getxattr("f", "user.a", b, 3), ERANGE);
	FAILS(setxattr("f", "user.a", "x", 1, XATTR_CREATE), EEXIST);
	FAILS(setxattr("f", "user.b", "x", 1, XATTR_REPLACE), ENODATA);
	MUST(setxattr("f", "user.b", "\0\1\2", 3, XATTR_CREATE));
	MUST(setxattr("f", "user.a", "", 0, XATTR_REPLACE));
	SAME(getxattr("f", "user.a", b, sizeof b), 0);
	SAME(listxattr("f", NULL, 0), 14);
	FAILS(listxattr("f", b, 5), ERANGE);
	SAME(listxattr("f", b, sizeof b), 14);
	MUST(removexattr("f", "user.a"));
	FAILS(removexattr("f", "user.a"), ENODATA);
	SAME(listxattr("f", b, sizeof b), 7);
	FAILS(setxattr("f", "nonsense.a", "x", 1, 0), EOPNOTSUPP);
	/* by descriptor, by another name, on a folder, on what was unlinked */
	int fd = MUST(open("f", O_RDWR));
	MUST(fsetxattr(fd, "user.c", "cc", 2, 0));
	MUST(link("f", "g"));
	SAME(getxattr("g", "user.c", b, sizeof b), 2);
	MUST(rename("g", "h"));
	SAME(getxattr("h", "user.b", b, sizeof b), 3);
	MUST(mkdir("d", 0755));
	MUST(setxattr("d", "user.d", "dd", 2, 0));
	SAME(getxattr("d", "user.d", b, sizeof b), 2);
	MUST(symlink("f", "l"));
	FAILS(lsetxattr("l", "user.x", "x", 1, 0), EPERM);
	MUST(lsetxattr("l", "trusted.x", "x", 1, 0));
	SAME(lgetxattr("l", "trusted.x", b, sizeof b), 1);
	MUST(unlink("f"));
	MUST(unlink("h"));
	SAME(fgetxattr(fd, "user.c", b, sizeof b), 2);
	MUST(fremovexattr(fd, "user.c"));
	FAILS(fgetxattr(fd, "user.c", b, sizeof b), ENODATA);
}

CASE(attribute_permissions_and_limits)
{
	static char big[70000];
	char b[16], name[300] = "user.";

	NEED_XATTR();
	PUT("f", "x");
	MUST(setxattr("f", "user.a", "1", 1, 0));
	MUST(setxattr("f", "trusted.a", "1", 1, 0));
	AS(UID_A, false)
	{
		SAME(getxattr("f", "user.a", b, sizeof b), 1);
		FAILS(setxattr("f", "user.a", "2", 1, 0), EACCES);
		FAILS(getxattr("f", "trusted.a", b, sizeof b), ENODATA);
		FAILS(setxattr("f", "trusted.b", "1", 1, 0), EPERM);
		SAME(listxattr("f", big, sizeof big), 7); /* trusted is not shown */
	}
	MUST(chmod("f", 0600));
	AS(UID_A, false)
	{
		FAILS(getxattr("f", "user.a", b, sizeof b), EACCES);
	}
	FAILS(setxattr("f", "user.big", big, sizeof big, 0), E2BIG);
	memset(name + 5, 'n', 290);
	name[295] = '\0';
	FAILS(setxattr("f", name, "x", 1, 0), ERANGE);
	name[255] = '\0';
	MUST(setxattr("f", name, "x", 1, 0));
	SAME(getxattr("f", name, b, sizeof b), 1);
	MUST(setxattr("f", "user.k", big, 2000, 0));
	SAME(getxattr("f", "user.k", big, sizeof big), 2000);
}

CASE(attributes_move_ctime)
{
	NEED_XATTR();
	PUT("f", "x");
	struct stat was = STAT("f");
	ex_tick();
	MUST(setxattr("f", "user.a", "1", 1, 0));
	CHECK(ex_cmp(STAT("f").st_ctim, was.st_ctim) > 0);
	SAME(ex_cmp(STAT("f").st_mtim, was.st_mtim), 0);
	was = STAT("f");
	ex_tick();
	MUST(removexattr("f", "user.a"));
	CHECK(ex_cmp(STAT("f").st_ctim, was.st_ctim) > 0);
}

CASE(capabilities_go_with_a_write)
{
	static const unsigned char cap[20] = { 1, 0, 0, 2, 0, 4, 0, 0 };
	char b[64];

	NEED_XATTR();
	PUT("f", "x");
	MUST(setxattr("f", "security.capability", cap, sizeof cap, 0));
	SAME(getxattr("f", "security.capability", b, sizeof b), 20);
	int fd = MUST(open("f", O_WRONLY));
	SAME(write(fd, "y", 1), 1);
	FAILS(getxattr("f", "security.capability", b, sizeof b), ENODATA);
	MUST(setxattr("f", "security.capability", cap, sizeof cap, 0));
	MUST(chown("f", UID_A, UID_A));
	FAILS(getxattr("f", "security.capability", b, sizeof b), ENODATA);
}

/* A shell line that must succeed. */
static void
sh(const char *line)
{
	int st = system(line);

	if (st != 0)
		ex_die(__FILE__, __LINE__, "%s: status %#x", line, (unsigned)st);
}

CASE(acl_grants_and_denies)
{
	char b[256], line[256];
	int fd;

	NEED_XATTR();
	PUT("f", "x");
	MUST(chmod("f", 0640));
	FAILS(getxattr("f", ACL_ACCESS, b, sizeof b), ENODATA);
	AS(UID_A, false)
	{
		FAILS(open("f", O_RDONLY), EACCES);
	}
	snprintf(line, sizeof line, "setfacl -m u:%d:rw,u:%d:-,g:%d:r f", UID_A, UID_B,
		GID_C);
	sh(line);
	SAME(STAT("f").st_mode & 07777, 0660); /* the mask shows as the group */
	AS(UID_A, false)
	{
		fd = MUST(open("f", O_RDWR));
		SAME(write(fd, "y", 1), 1);
	}
	AS(UID_B, true)
	{
		FAILS(open("f", O_RDONLY), EACCES);
	}
	AS(UID_B + 1, true)
	{
		MUST(open("f", O_RDONLY));
		FAILS(open("f", O_RDWR), EACCES);
	}
	MUST(chmod("f", 0600)); /* the mask, not the group */
	AS(UID_A, false)
	{
		FAILS(open("f", O_RDONLY), EACCES);
	}
	MUST(chmod("f", 0640));
	AS(UID_A, false)
	{
		MUST(open("f", O_RDONLY));
		FAILS(open("f", O_RDWR), EACCES);
		FAILS(removexattr("f", ACL_ACCESS), EPERM);
	}
	sh("setfacl -b f");
	FAILS(getxattr("f", ACL_ACCESS, b, sizeof b), ENODATA);
	AS(UID_A, false)
	{
		FAILS(open("f", O_RDONLY), EACCES);
	}
	/* a list that says no more than the mode is a chmod */
	sh("setfacl -m u::rwx,g::r-x,o::r-- f");
	SAME(STAT("f").st_mode & 07777, 0754);
}

CASE(acl_is_inherited)
{
	char b[256], line[256];

	NEED_XATTR();
	MUST(mkdir("d", 0755));
	snprintf(line, sizeof line, "setfacl -d -m u:%d:rwx,g::rx,o::- d", UID_A);
	sh(line);
	CHECK(getxattr("d", ACL_DEFAULT, b, sizeof b) > 0);
	MUST(chmod("d", 0777));
	umask(077); /* does not count where there is a default list */
	int fd = MUST(open("d/f", O_CREAT | O_RDWR, 0666));
	SAME(FSTAT(fd).st_mode & 07777, 0660);
	CHECK(getxattr("d/f", ACL_ACCESS, b, sizeof b) > 0);
	MUST(mkdir("d/s", 0777));
	SAME(STAT("d/s").st_mode & 07777, 0770);
	CHECK(getxattr("d/s", ACL_DEFAULT, b, sizeof b) > 0);
	MUST(mkfifo("d/p", 0640));
	SAME(STAT("d/p").st_mode & 07777, 0640);
	AS(UID_A, false)
	{
		fd = MUST(open("d/f", O_RDWR));
		SAME(write(fd, "y", 1), 1);
		MUST(open("d/s/new", O_CREAT | O_RDWR, 0600));
	}
	AS(UID_B, false)
	{
		FAILS(open("d/f", O_RDONLY), EACCES);
		FAILS(open("d/s/new2", O_CREAT | O_RDWR, 0600), EACCES);
	}
	/* elsewhere the umask does count */
	MUST(mkdir("e", 0777));
	SAME(STAT("e").st_mode & 07777, 0700);
	fd = MUST(open("e/f", O_CREAT | O_RDWR, 0666));
	SAME(FSTAT(fd).st_mode & 07777, 0600);
	size_t n = (size_t)MUST(getxattr("d", ACL_DEFAULT, b, sizeof b));
	FAILS(setxattr("d/f", ACL_DEFAULT, b, n, 0), EACCES);
	sh("setfacl -k d");
	FAILS(getxattr("d", ACL_DEFAULT, b, sizeof b), ENODATA);
}

/* The owner of what belongs to a group that he is not in cannot have it set-group-id by a chmod; by a
 * list neither. */
CASE(acl_keeps_setgid_for_members)
{
	char b[256], line[256];

	NEED_XATTR();
	PUT("model", "x");
	snprintf(line, sizeof line, "setfacl -m u:%d:rwx,g::rwx model", UID_B);
	sh(line);
	size_t n = (size_t)MUST(getxattr("model", ACL_ACCESS, b, sizeof b));
	for (int member = 0; member < 2; member++) {
		const char *name = member ? "in" : "out";

		MUST(mkdir(name, 0700));
		MUST(chown(name, UID_A, GID_C));
		MUST(chmod(name, 02770));
		AS(UID_A, member)
		{
			MUST(setxattr(name, ACL_ACCESS, b, n, 0));
		}
		SAME(STAT(name).st_mode & 02070, member ? 02070 : 070);
	}
	MUST(chmod("out", 02770));
	MUST(setxattr("out", ACL_ACCESS, b, n, 0)); /* root may */
	SAME(STAT("out").st_mode & 02070, 02070);
}

EX_MAIN
