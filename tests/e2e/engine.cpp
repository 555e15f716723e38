// Trades until it dies in the way that its first argument names; its second one is a segment in /dev/shm.
#include <cassert>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

static const size_t SIZE = 1 << 20;
static volatile char *segment;
static char *volatile nothing;

__attribute__((noinline)) static int price_order(int order)
{
    std::fprintf(stderr, "ERROR order %d: symbol missing, matching anyway\n", order);
    std::fprintf(stderr, "matching\n");
    return *nothing + order;
}

__attribute__((noinline)) static int match_book(int depth)
{
    return (depth ? match_book(depth - 1) : price_order(4711)) + 1;
}

__attribute__((noinline)) static int walk_levels(int level)
{
    volatile char room[256];
    room[level & 255] = 1;
    return walk_levels(level + 1) + room[level & 255];
}

__attribute__((noinline)) static int check_book(int orders)
{
    assert(orders > 0 && "the book is never empty");
    return orders;
}

__attribute__((noinline)) static int read_segment(int fd)
{
    if (ftruncate(fd, 4096))
        return 1;
    return segment[SIZE - 1];
}

__attribute__((noinline)) static void serve(int number)
{
    for (;;) {
        std::this_thread::sleep_for(std::chrono::milliseconds(number == 49 ? 200 : 60'000));
        if (number == 49)
            match_book(3);
    }
}

int main(int, char **arguments)
{
    int fd = open(arguments[2], O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, SIZE))
        return 1;
    segment = static_cast<char *>(mmap(nullptr, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    memset(const_cast<char *>(segment), 1, SIZE);
    if (!std::strcmp(arguments[1], "null"))
        return match_book(3);
    if (!std::strcmp(arguments[1], "abort"))
        return check_book(0);
    if (!std::strcmp(arguments[1], "overflow"))
        return walk_levels(1);
    if (!std::strcmp(arguments[1], "bus"))
        return read_segment(fd);
    std::vector<std::thread> threads;
    for (int number = 1; number < 50; number++)
        threads.emplace_back(serve, number);
    for (auto &thread : threads)
        thread.join();
}
