/*
 * conf.h - a slot's configuration: `key: value` lines, all keys in one table.
 *
 * The file is an interface that other programs write. A line is empty, a comment (#), or a key,
 * a colon and a value; white space followed by # ends the value. `peer` may be given several
 * times, every other key once. Threads: any; a struct conf is plain memory without owners, so it
 * may be copied, and is never changed after it was loaded.
 */
#ifndef FS_CONF_H
#define FS_CONF_H

#include "meta/base/buf.h"
#include "meta/base/hash.h"
#include "meta/base/log.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	CONF_PATH_MAX = 4096,
	CONF_NAME_MAX = 64,
	CONF_HOST_MAX = 256,
	CONF_PORT_MAX = 8,
	CONF_PEERS_MAX = 16,
	CONF_FILE_MAX = 64 * 1024
};

enum conf_role { CONF_ACTIVE, CONF_STANDBY };
enum conf_level { CONF_LOCAL, CONF_RECEIVED, CONF_FLUSHED, CONF_APPLIED };
enum conf_kind { CONF_DELIVERY, CONF_FLAGS, CONF_OTHER, CONF_KINDS };
enum conf_alone { CONF_CONTINUE, CONF_REFUSE };
enum conf_sync { CONF_COMMIT, CONF_EACH };
enum conf_transport { CONF_DEV, CONF_URING };

/* host is a name or a numeric address without brackets; port a decimal number as text. */
struct conf_addr {
	char host[CONF_HOST_MAX];
	char port[CONF_PORT_MAX];
};

struct conf_peer {
	char name[CONF_NAME_MAX];
	struct conf_addr addr;
	uint8_t fingerprint[SHA256_LEN]; /* of its DER certificate */
};

struct conf {
	char path[CONF_PATH_MAX]; /* of the file itself, absolute */
	char mountpoint[CONF_PATH_MAX]; /* after conf_load its real path */
	char spool[CONF_PATH_MAX];
	char state[CONF_PATH_MAX];
	char imapd_conf[CONF_PATH_MAX];
	char name[CONF_NAME_MAX];
	struct conf_addr listen; /* host empty: this node only dials */
	struct conf_peer peers[CONF_PEERS_MAX];
	uint32_t n_peers;
	uint32_t role; /* enum conf_role, for the very first start */
	uint32_t durability[CONF_KINDS]; /* enum conf_level by enum conf_kind */
	uint32_t when_alone; /* enum conf_alone */
	uint32_t sync; /* enum conf_sync */
	uint32_t transport; /* enum conf_transport */
	uint32_t xattr; /* 0 or 1 */
	uint32_t log; /* enum log_level */
	uint64_t durability_timeout; /* ms an answer waits for the peers */
	uint64_t threads; /* that answer requests */
	uint64_t start_wait; /* ms the gate stays shut for a peer's hello at start */
	uint64_t stop_wait; /* ms a clean stop waits for the peers */
	uint64_t journal_size; /* bytes kept for a peer that is away */
	uint64_t journal_age; /* ms the same are kept */
	uint64_t rate; /* bytes a second sent to each peer at most; 0: none */
};

/*
 * Reads the file at path. 0 or ERR_CONF, ERR_IO, ERR_NOTFOUND, ERR_ACCESS, ERR_LIMIT; every
 * wrong line is told in complaints as `FILE:LINE: KEY: expected WHAT, not "VALUE"`, one a line.
 */
int conf_load(const char *path, struct conf *out, struct buf *complaints);

/* The same from memory; path is only named and stored. */
int conf_parse(const char *path, const char *text, size_t len, struct conf *out,
	struct buf *complaints);

/* Each key with its default and help, some lines each, as `twinspool help conf` prints it. */
void conf_describe(struct buf *out);

/* The n-th key's name, NULL behind the last: for the test that compares them with the manual. */
const char *conf_key_name(unsigned n);

/* A time as keys have it (500ms, 10s, 5m, 2h, 7d, plain seconds) in ms; false if it is none. */
bool conf_parse_time(const char *text, uint64_t *ms_out);

#endif
