/* Dies in one of the ways that its first argument names, from a function three calls deep. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What distributions put into their programs: https://systemd.io/ELF_PACKAGE_METADATA/ */
__asm__(".section .note.package,\"a\",@note\n.long 4\n.long 2f-1f\n.long 0xcafe1a7e\n.asciz \"FDO\"\n"
        "1: .asciz \"{\\\"type\\\":\\\"deb\\\",\\\"name\\\":\\\"bugs\\\"}\"\n2: .balign 4\n.previous");

#ifdef MOVED /* another build: what follows is elsewhere */
__attribute__((used)) static int added(int number)
{
    for (int at = 0; at < number; at++)
        number ^= at * 77;
    return number;
}
#endif

static volatile int zero;
static const char *volatile nothing;

static int through_null(void) { return *(volatile int *)nothing + 1; }
static int through_another_null(void) { return *(volatile int *)(nothing + 8) * 3; }
static int at_once(const int *number) { return *number; } /* its first instruction */
static int by_argument(void) { return at_once((const int *)nothing) + 1; }
static int in_the_library(void) { return (int)strlen((const char *)nothing) + 1; }
static int by_division(void) { return 7 / zero + 1; }
static int by_abort(void)
{
    if (!zero)
        abort();
    return 1;
}
static int by_signal(void) { return raise(SIGSEGV) + 1; }
static int into_nowhere(void) { return ((int (*)(void))(nothing + 64))() + 1; }
static int into_data(void)
{
    static int data[2048];
    return ((int (*)(void))data)() + 1;
}
static int without_end(int number)
{
    volatile char room[200];
    room[number & 127] = 1;
    return without_end(number + 1) + room[number & 127];
}
static int deeper(void) { return without_end(1) + 1; }

static const struct way {
    const char *name;
    int (*go)(void);
} ways[] = {
    {"null", through_null}, {"other", through_another_null}, {"once", by_argument}, {"strlen", in_the_library}, {"division", by_division},
    {"abort", by_abort}, {"raise", by_signal}, {"nowhere", into_nowhere}, {"data", into_data}, {"overflow", deeper},
};

static int second(const struct way *way) { return way->go() + 1; }
static int first(const struct way *way) { return second(way) + 1; }

static void *in_thread(void *way) { return (void *)(long)first(way); }

static void handler(int number)
{
    (void)number;
    write(2, "crashed\n", 8);
    signal(SIGABRT, SIG_DFL);
    abort();
}

static void handler_with_information(int number, siginfo_t *information, void *context)
{
    (void)information, (void)context;
    signal(number, SIG_DFL);
    raise(number);
}

int main(int count, char **arguments)
{
    static char room[65536];
    stack_t other = {.ss_sp = room, .ss_size = sizeof room};
    struct sigaction action = {.sa_flags = SA_ONSTACK};
    const struct way *way = ways;
    for (unsigned at = 0; at < sizeof ways / sizeof *ways; at++)
        if (!strcmp(ways[at].name, arguments[1]))
            way = ways + at;
    for (int at = 2; at < count; at++) {
        if (!strcmp(arguments[at], "alternate"))
            sigaltstack(&other, 0);
        else if (!strcmp(arguments[at], "handled")) {
            action.sa_handler = handler;
            sigaction(SIGSEGV, &action, 0);
        } else if (!strcmp(arguments[at], "informed")) {
            action.sa_sigaction = handler_with_information;
            action.sa_flags |= SA_SIGINFO;
            sigaction(SIGSEGV, &action, 0);
        } else if (!strcmp(arguments[at], "thread")) {
            pthread_t thread;
            pthread_create(&thread, 0, in_thread, (void *)way);
            pthread_join(thread, 0);
        }
    }
    return first(way);
}
