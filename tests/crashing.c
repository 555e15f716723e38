/* Crashes at address 0x1234, in one of the ways that its first argument names. */
#define _GNU_SOURCE
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static pthread_barrier_t ready;

static int crash(int n)
{
    volatile char room[512];
    room[n % 512] = 1;
    return n ? crash(n - 1) + room[n % 512] : *(volatile int *)0x1234;
}

static int endless(int n)
{
    volatile char room[512];
    room[n & 511] = 1;
    return endless(n + 1) + room[n & 511];
}

static void wait_below(volatile char *room, int n)
{
    if (n) {
        wait_below(room + 1, n - 1);
    } else {
        pthread_barrier_wait(&ready);
        for (;;)
            pause();
    }
    room[0]++;
}

static void *waiting(void *depth)
{
    char room[256];
    memset(room, 1, sizeof room);
    wait_below(room, (int)(long)depth);
    return 0;
}

static void in_handler(int number)
{
    (void)number;
    signal(SIGABRT, SIG_DFL);
    abort();
}

static void use_alternate_stack(void)
{
    static char room[65536];
    stack_t stack = {.ss_sp = room, .ss_size = sizeof room};
    struct sigaction action = {.sa_handler = in_handler, .sa_flags = SA_ONSTACK};
    sigaltstack(&stack, 0);
    sigaction(SIGSEGV, &action, 0);
}

static void *crash_in_handler(void *unused)
{
    use_alternate_stack();
    crash(20);
    return unused;
}

static char *pages(size_t size, int protection)
{
    return mmap(0, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static void threads(int count)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    pthread_barrier_init(&ready, 0, count);
    for (long number = 1; number < count; number++)
        pthread_create(&thread, &attributes, waiting, (void *)(number % 7 + 1));
    pthread_barrier_wait(&ready);
    usleep(20000);
}

int main(int count, char **arguments)
{
    const char *way = arguments[1];
    size_t number = count > 2 ? atol(arguments[2]) : 0;
    struct link_map *last = _r_debug.r_map;
    while (last->l_next)
        last = last->l_next;
    if (!strcmp(way, "threads"))
        threads(number);
    else if (!strcmp(way, "overflow"))
        endless(0);
    else if (!strcmp(way, "handler"))
        use_alternate_stack();
    else if (!strcmp(way, "handler-of-thread")) {
        pthread_t thread;
        pthread_create(&thread, 0, crash_in_handler, 0);
        pthread_join(thread, 0);
    } else if (!strcmp(way, "circle")) {
        last->l_next = _r_debug.r_map;
        last->l_name = (char *)-1;
    } else if (!strcmp(way, "nowhere")) {
        last->l_next = (struct link_map *)0x7878787878787878;
    } else if (!strcmp(way, "long-name")) {
        last->l_name = memset(pages(1 << 20, 3), 'x', 1 << 20);
    } else if (!strcmp(way, "secret")) {
        last->l_name = memset(pages(1 << 20, 3), 'x', 1 << 20);
        madvise(last->l_name, 1 << 20, MADV_DONTDUMP);
    } else if (!strcmp(way, "no-stack")) {
        __asm__ volatile("mov $0x10, %rsp; mov (0), %rax");
    } else if (!strcmp(way, "code")) {
        ((void (*)(void))memcpy(pages(4096, 7), "\xa1\x34\x12\0\0\0\0\0\0", 9))();
    } else if (!strcmp(way, "sparse")) { /* of *number* MiB, one page in each 8 */
        char *memory = pages(number << 20, 3);
        madvise(memory, number << 20, MADV_NOHUGEPAGE);
        for (size_t at = 0; at < number; at += 8)
            memset(memory + (at << 20), 'y', 4096);
    }
    return crash(3);
}
