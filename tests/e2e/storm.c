/* `storm COUNT MILLISECONDS`: COUNT children crash, spread evenly over that time. Prints, for each one that is over, its
 * PID and for how many microseconds the kernel has kept it. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
	int count = atoi(argv[1]), begun = 0, over = 0;
	long spread_us = atol(argv[2]) * 1000, start_us = now_us();
	struct { pid_t pid; long at_us; } *child = calloc(count, sizeof *child);
	(void)argc;
	while (over < count) {
		pid_t pid;
		while (begun < count && now_us() - start_us >= spread_us / count * begun) {
			child[begun].at_us = now_us();
			child[begun].pid = fork();
			if (!child[begun].pid)
				raise(SIGSEGV);
			begun++;
		}
		while ((pid = waitpid(-1, 0, WNOHANG)) > 0)
			for (int i = 0; i < begun; i++)
				if (child[i].pid == pid) {
					printf("%d %ld\n", pid, now_us() - child[i].at_us);
					child[i].pid = 0;
					over++;
				}
		usleep(500);
	}
	return 0;
}
