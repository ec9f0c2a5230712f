/*
 * longline.c - a long line: two network namespaces, 10.77.0.1 and 10.77.0.2, and packets that take
 * their time from one to the other.
 *
 *   longline MILLISECONDS MBIT FILE
 *
 * delays each direction by so much and carries so many megabits a second in each. Prints the pids
 * of two processes that hold the namespaces (nsenter -n -t PID), then carries until its stdin ends.
 * FILE holds counters of 64 bits, always current: bytes and packets that left at the far end, and
 * packets dropped, first from .1 to .2, then back.
 *
 * How it works. In each namespace there is a TUN device, and both descriptors are here. A packet
 * that is read gets the moment at which a wire of that rate would be through with it, plus the
 * delay; it waits in a ring for that moment. What finds more than QUEUE_MS before it is dropped,
 * as a router would. So TCP on both sides sees a real round trip and needs a real window.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MTU = 1500, RING = 1 << 14, QUEUE_MS = 300, BATCH = 64 };

struct packet {
	uint64_t due; /* ns */
	uint32_t n;
	uint8_t bytes[MTU];
};

struct way {
	int in, out;
	struct packet *ring;
	unsigned first, n;
	uint64_t free_at; /* when the wire is through with what it has */
	uint64_t *count; /* bytes, packets, dropped */
};

static void
die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void
address(struct ifreq *r, const char *text)
{
	struct sockaddr_in *a = (struct sockaddr_in *)&r->ifr_addr;

	memset(a, 0, sizeof(*a));
	a->sin_family = AF_INET;
	inet_pton(AF_INET, text, &a->sin_addr);
}

/* A namespace with a device in it; the descriptor is the device's other side. */
static int
end_of_line(const char *own, pid_t *holder_out)
{
	struct ifreq r = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	int fd, s;

	if (unshare(CLONE_NEWNET) != 0)
		die("unshare");
	if ((fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0)
		die("/dev/net/tun");
	strcpy(r.ifr_name, "far");
	if (ioctl(fd, TUNSETIFF, &r) != 0)
		die("TUNSETIFF");
	if ((s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) < 0)
		die("socket");
	address(&r, own);
	if (ioctl(s, SIOCSIFADDR, &r) != 0)
		die("SIOCSIFADDR");
	address(&r, "255.255.255.0");
	if (ioctl(s, SIOCSIFNETMASK, &r) != 0)
		die("SIOCSIFNETMASK");
	r.ifr_mtu = MTU;
	if (ioctl(s, SIOCSIFMTU, &r) != 0)
		die("SIOCSIFMTU");
	r.ifr_qlen = RING;
	if (ioctl(s, SIOCSIFTXQLEN, &r) != 0)
		die("SIOCSIFTXQLEN");
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(s, SIOCSIFFLAGS, &r) != 0)
		die("SIOCSIFFLAGS");
	strcpy(r.ifr_name, "lo");
	if (ioctl(s, SIOCSIFFLAGS, &r) != 0)
		die("SIOCSIFFLAGS");
	close(s);
	if ((*holder_out = fork()) < 0)
		die("fork");
	if (*holder_out == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return fd;
}

static void
take_in(struct way *w, uint64_t now, uint64_t delay, uint64_t bits)
{
	uint8_t spare[MTU];

	for (int i = 0; i < BATCH; i++) {
		bool full = w->n == RING;
		struct packet *p = &w->ring[(w->first + w->n) % RING];
		ssize_t n = read(w->in, full ? spare : p->bytes, MTU);
		if (n <= 0)
			return;
		if (full || w->free_at > now + QUEUE_MS * 1000000ULL) {
			w->count[2]++;
			continue;
		}
		if (w->free_at < now)
			w->free_at = now;
		w->free_at += (uint64_t)n * 8 * 1000000000 / bits;
		p->due = w->free_at + delay;
		p->n = (uint32_t)n;
		w->n++;
	}
}

static void
let_out(struct way *w, uint64_t now)
{
	while (w->n > 0 && w->ring[w->first].due <= now) {
		struct packet *p = &w->ring[w->first];
		if (write(w->out, p->bytes, p->n) == (ssize_t)p->n) {
			w->count[0] += p->n;
			w->count[1]++;
		} else {
			w->count[2]++;
		}
		w->first = (w->first + 1) % RING;
		w->n--;
	}
}

int
main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: longline MILLISECONDS MBIT FILE\n");
		return 2;
	}
	uint64_t delay = strtoull(argv[1], NULL, 10) * 1000000;
	uint64_t bits = strtoull(argv[2], NULL, 10) * 1000000;
	int file = open(argv[3], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	uint64_t *count = MAP_FAILED;
	pid_t holders[2];
	int fds[2];
	struct way ways[2];

	if (file >= 0 && ftruncate(file, 4096) == 0)
		count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (count == MAP_FAILED)
		die(argv[3]);
	fds[0] = end_of_line("10.77.0.1", &holders[0]);
	fds[1] = end_of_line("10.77.0.2", &holders[1]);
	for (int i = 0; i < 2; i++) {
		ways[i] = (struct way){ .in = fds[i],
			.out = fds[1 - i],
			.ring = calloc(RING, sizeof(struct packet)),
			.count = count + 3 * i };
		if (ways[i].ring == NULL)
			die("calloc");
	}
	printf("%d %d\n", (int)holders[0], (int)holders[1]);
	fflush(stdout);
	for (;;) {
		struct pollfd p[3] = { { fds[0], POLLIN, 0 }, { fds[1], POLLIN, 0 },
			{ STDIN_FILENO, POLLIN, 0 } };
		uint64_t now = now_ns(), due = UINT64_MAX;
		for (int i = 0; i < 2; i++)
			if (ways[i].n > 0 && ways[i].ring[ways[i].first].due < due)
				due = ways[i].ring[ways[i].first].due;
		uint64_t left = due > now ? due - now : 0;
		struct timespec t = { (time_t)(left / 1000000000),
			(long)(left % 1000000000) };
		if (ppoll(p, 3, due == UINT64_MAX ? NULL : &t, NULL) < 0 &&
			errno != EINTR)
			die("ppoll");
		if (p[2].revents != 0)
			break;
		now = now_ns();
		for (int i = 0; i < 2; i++) {
			take_in(&ways[i], now, delay, bits);
			let_out(&ways[i], now);
		}
	}
	kill(holders[0], SIGKILL);
	kill(holders[1], SIGKILL);
	return 0;
}
