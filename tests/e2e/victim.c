/* A service that ends badly: victim null | eat | exit | book SEGMENT MIB (fills it, and dies once it is told to). */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile int *nothing;

static __attribute__((noinline)) int match_order(int order) { return *nothing + order; }

static void eat(void)
{
	for (;;)
		memset(malloc(1 << 20), 1, 1 << 20);
}

static void keep_book(const char *path, size_t mib)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, mib << 20) < 0)
		exit(2);
	char *book = mmap(0, mib << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (size_t at = 0; at < mib << 20; at += 4096)
		memcpy(book + at, &at, sizeof at);
	sigset_t told;
	int number;
	sigemptyset(&told);
	sigaddset(&told, SIGUSR1);
	sigprocmask(SIG_BLOCK, &told, 0);
	sigwait(&told, &number);
}

int main(int argc, char **argv)
{
	if (!strcmp(argv[1], "eat"))
		eat();
	if (!strcmp(argv[1], "exit"))
		return 3;
	if (argc > 3)
		keep_book(argv[2], strtoul(argv[3], 0, 10));
	return match_order(4711);
}
