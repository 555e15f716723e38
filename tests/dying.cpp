// Dies in the way that its first argument names.
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <vector>

namespace engine {
struct Segment {
    virtual void map() = 0;
};
struct Refused {
    int code;
};
}

__attribute__((noinline)) static void caught()
{
    try {
        throw std::runtime_error("this one was dealt with");
    } catch (const std::exception &) {
    }
}

__attribute__((noinline)) static void give_up()
{
    volatile char room[6000]; // covers what the exception has left on the stack, and does not clear it
    room[0] = 1;
    std::abort();
}

int main(int count, char **arguments)
{
    const char *way = arguments[1];
    if (!std::strcmp(way, "virtual")) {
        engine::Segment *volatile none = nullptr;
        none->map();
    } else if (!std::strcmp(way, "runtime")) {
        throw std::runtime_error("no segment named engine.7");
    } else if (!std::strcmp(way, "range")) {
        return std::vector<int>().at(count);
    } else if (!std::strcmp(way, "own")) {
        throw engine::Refused{3};
    } else if (!std::strcmp(way, "memory")) {
        volatile std::size_t many = std::size_t(1) << 62;
        return (new char[many])[0];
    } else if (!std::strcmp(way, "caught")) {
        caught();
        give_up();
    }
    return 3;
}
