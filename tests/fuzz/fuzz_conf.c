/* The configuration and a line of mountinfo: whatever the bytes are. */
#include "fs/conf.h"
#include "fs/unmount.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct conf conf;
	static struct mount_place place;
	struct buf told = BUF_INIT;
	char *line = malloc(size + 1);

	int rc = conf_parse("f", (const char *)data, size, &conf, &told);
	if ((rc == 0) != (told.len == 0) || (rc == 0 && conf.mountpoint[0] != '/'))
		abort();
	buf_fini(&told);
	if (line != NULL) {
		memcpy(line, data, size);
		line[size] = '\0';
		unmount_parse(line, &place);
	}
	free(line);
	return 0;
}
