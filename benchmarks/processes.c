/*
 * What runs beside the daemon. A Python process would itself want the memory or the processor that is measured.
 * None outlives the benchmark, and none stays behind if that is killed.
 *
 *   crash FILE      Map FILE and print the PID. Given a line, die of a null dereference and print the wait status
 *                   and the wall clock once the kernel has written the core. At the end of standard input, just go.
 *   heap BYTES      The same with so many bytes of its own, none of whose pages is zero, instead of a file.
 *   allocate BYTES  Map, touch and unmap so many bytes, again and again.
 *   spin            Do nothing but keep a processor busy.
 *   late fifo|other Sleep until the next 5 ms are over, again and again, under SCHED_FIFO or as everybody else. At
 *                   the end of standard input, write pairs of doubles: wall clock when due, seconds late.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PERIOD_NS 5000000L
#define SAMPLES (1 << 17) /* eleven minutes */

static double samples[SAMPLES][2];

static double seconds(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static volatile char *mapped(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDWR);
	if (fd < 0 || fstat(fd, &st) < 0)
		return MAP_FAILED;
	return mmap(0, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

static volatile char *heap(size_t size)
{
	volatile char *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned long word = 88172645463325252UL;
	for (size_t at = 0; p != MAP_FAILED && at < size; at += sizeof word) {
		word ^= word << 13, word ^= word >> 7, word ^= word << 17; /* xorshift: nothing to compress */
		*(volatile unsigned long *)(p + at) = word;
	}
	return p;
}

static int die(volatile char *p)
{
	struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
	if (p == MAP_FAILED || setrlimit(RLIMIT_CORE, &unlimited) < 0)
		return 2;
	char first = p[0];
	printf("%d\n", getpid());
	fflush(stdout);
	if (getchar() == EOF)
		return 0;
	*(volatile int *)0 = first;
	return 4;
}

static int crash(const char *path, size_t size)
{
	int status;
	pid_t pid = fork();
	if (pid < 0)
		return 5;
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(die(path ? mapped(path) : heap(size)));
	}
	/* The moment must not depend on when it gets a processor, or its own pages back. */
	mlockall(MCL_CURRENT);
	setpriority(PRIO_PROCESS, 0, -20);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 6;
	printf("%d %.6f\n", status, seconds(CLOCK_REALTIME));
	return 0;
}

static int allocate(size_t size)
{
	for (;;) {
		char *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return 2;
		for (size_t at = 0; at < size; at += 4096)
			p[at] = 1;
		munmap(p, size);
	}
}

static int late(int fifo)
{
	struct sched_param param = {.sched_priority = 50};
	struct pollfd input = {.fd = 0, .events = POLLIN};
	struct timespec next;
	size_t count = 0;
	if (fifo && sched_setscheduler(0, SCHED_FIFO, &param) < 0)
		return 2;
	memset(samples, 0, sizeof samples);
	mlockall(MCL_CURRENT | MCL_FUTURE);
	clock_gettime(CLOCK_MONOTONIC, &next);
	while (count < SAMPLES && poll(&input, 1, 0) == 0) {
		next.tv_nsec += PERIOD_NS;
		if (next.tv_nsec >= 1000000000L) {
			next.tv_nsec -= 1000000000L;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, 0);
		double delay = seconds(CLOCK_MONOTONIC) - (next.tv_sec + next.tv_nsec / 1e9);
		samples[count][0] = seconds(CLOCK_REALTIME) - delay;
		samples[count++][1] = delay;
	}
	fwrite(samples, sizeof samples[0], count, stdout);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!strcmp(what, "crash") && argc > 2)
		return crash(argv[2], 0);
	if (!strcmp(what, "heap") && argc > 2)
		return crash(0, strtoull(argv[2], 0, 10));
	if (!strcmp(what, "allocate") && argc > 2)
		return allocate(strtoull(argv[2], 0, 10));
	if (!strcmp(what, "late") && argc > 2)
		return late(!strcmp(argv[2], "fifo"));
	if (!strcmp(what, "spin"))
		for (volatile unsigned long turns = 0;; turns++)
			;
	return 64;
}
