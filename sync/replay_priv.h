/*
 * replay_priv.h - what replay.c and replay_*.c share. For these only.
 */
#ifndef SYNC_REPLAY_PRIV_H
#define SYNC_REPLAY_PRIV_H

#include "sync/node.h"
#include "sync/replay.h"

enum { REPLAY_LANES = 4096, REPLAY_RECORD_MS = 300, REPLAY_WORKERS_MAX = 16 };

enum job_state {
	JOB_QUEUED,
	JOB_BARRED,
	JOB_RUNNING,
	JOB_NEEDS,
	JOB_STALLED,
	JOB_MOVED
};

struct job {
	struct job *next; /* all jobs in order */
	struct job *lane_next;
	struct job *run_next; /* the workers' queue, or the list of ended ones */
	struct pos pos;
	char *dir;
	char *path; /* a path batch: the key of its entry, "=path" */
	char *target; /* a folder's move: its new name */
	bool swaps; /* target and path change places */
	bool deletes; /* the path */
	struct buf bytes;
	enum job_state state;
	bool barrier, fence, redo;
	bool half; /* bodies of it may be in place that no record names */
	/* outcome */
	int rc;
	struct mbox_need need;
	struct mbox_fault fault;
	unsigned needs; /* how often it asked for this one: */
	uint8_t asked_for[SHA1_LEN];
};

/* Jobs of mailboxes that hash alike run one after the other: a shared lane costs parallelism,
 * never order. */
struct lane {
	struct job *first, **end;
};

/* What idle workers may help with; n is 0 when there is nothing. */
struct share {
	void (*fn)(void *arg, size_t i);
	void *arg;
	size_t next, n;
	unsigned helpers;
};

struct replay {
	struct node *n;
	struct job *first, **end; /* in order of pos */
	size_t n_jobs, fences, bytes;
	struct pos loaded; /* rows up to here are jobs or settled */
	bool more;
	struct lane lanes[REPLAY_LANES];
	/* Only the first of a lane is ever with a worker, so any worker may take it. */
	pthread_t workers[REPLAY_WORKERS_MAX];
	unsigned n_workers;
	pthread_mutex_t ready_lock;
	pthread_cond_t ready_cond;
	struct job *ready, **ready_end;
	struct share share;
	pthread_cond_t share_left; /* the last helper has */
	bool stop;
	size_t n_running; /* with workers, or ended and not yet looked at */
	bool redo, redone;
	struct pos redo_upto;
	/* ended jobs, from the workers */
	pthread_mutex_t ended_lock;
	struct job *ended;
	struct loop_call ended_call;
	uint64_t applied, recorded_ms, next_stall_ms;
	uint64_t hold_ms; /* recording failed: not again before that */
	bool unrecorded;
	char stalled[200];
	/* recording runs on a thread of its own: a sync of the spool takes its time */
	pthread_t recorder;
	bool recording;
	_Atomic bool synced;
	int sync_rc; /* the recorder's until it is joined, and so is */
	uint64_t took_ms;
	uint64_t sync_ms; /* that the last one took */
	uint64_t mark;
};

/* replay_work.c: the workers. Each takes the next job, carries it out and raises ended_call. Open
 * begins with zeros; close waits for what they are at. */
int replay_work_open(struct replay *r, unsigned workers);
void replay_work_close(struct replay *r);
void replay_work_add(struct replay *r, struct job *j);
/* From a worker: calls fn for each number below n, in any order, on this thread and on those that
 * have nothing else to do. Returns when all are done. */
void replay_work_share(
	struct replay *r, void (*fn)(void *arg, size_t i), void *arg, size_t n);

/* replay_job.c: any thread. Carries a job out; its outcome is in rc, need and fault. */
void replay_job_run(struct replay *r, struct job *j);
/* Takes away what a batch made of a mailbox that it could not finish; torn: also if it was finished
 * and does not parse. Entry lock held. */
void replay_job_unmake(struct replay *r, const char *dir, bool torn);
/* Makes a path's entry true to the disk if it is there unknown. Entry lock held. */
void replay_job_find_path(struct node *n, struct mboxent *e);

/* replay_record.c: the peer thread. Begins to record what is done, unless that is under way: a
 * sync of the spool on a thread of its own, then finish. */
void replay_record_begin(struct replay *r);
void replay_record_finish(struct replay *r);
/* The same at once, for the end. */
void replay_record_now(struct replay *r);

#endif
