/* Like crasher.c, but it is the second thread, named "worker-3", that maps the files and dies. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char **names;

static void *work(void *unused)
{
	(void)unused;
	pthread_setname_np(pthread_self(), "worker-3");
	for (char **name = names; *name; name++) {
		struct stat st;
		int fd = open(*name, O_RDWR);
		if (fd < 0 || fstat(fd, &st) < 0)
			_exit(2);
		if (mmap(0, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
			_exit(3);
	}
	puts("ready");
	fflush(stdout);
	getchar();
	*(volatile int *)0 = 0;
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	(void)argc;
	names = argv + 1;
	if (pthread_create(&thread, 0, work, 0))
		return 1;
	pthread_join(thread, 0);
	return 0;
}
