// Settings, counters and contexts, and the functions by which the tests read them.
#include "null.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace {

int number(const char* name, int otherwise) {
    const char* value = getenv(name);
    return value ? atoi(value) : otherwise;
}

Settings from_environment() {
    Settings found;
    found.devices = number("NULL_CUDA_DEVICES", 1);
    found.memory = size_t(number("NULL_CUDA_MIB", 80 << 10)) << 20;
    int capability = number("NULL_CUDA_CAPABILITY", 80);
    found.major = capability / 10;
    found.minor = capability % 10;
    found.full = number("NULL_CUDA_FULL", -1);
    return found;
}

using Listener = void (*)(const char* call, int kind, int device);

std::atomic<long> counts[MOST_DEVICES][KINDS];
std::atomic<bool> contexts[MOST_DEVICES];
std::atomic<Listener> listener{nullptr};
thread_local int current = 0;
thread_local bool bound = false;

void tell(const char* call, Counted kind, int device) {
    if (Listener told = listener) told(call, kind, device);
}

}  // namespace

// Read late: a process that has loaded torch forks, and each child has its own environment.
const Settings& settings() {
    static const Settings found = from_environment();
    return found;
}

int current_device() { return current; }
void set_current_device(int device) { current = device; }

bool has_context(int device) { return contexts[device]; }
bool thread_is_bound() { return bound; }
void unbind_thread() { bound = false; }

void open_context(int device) {
    if (contexts[device].exchange(true)) return;
    counts[device][CONTEXTS]++;
    tell("context", CONTEXTS, device);
}

void bind_thread() {
    bound = true;
    open_context(current);
}

void count(Counted kind) {
    bind_thread();
    counts[current][kind]++;
}

void count_and_tell(Counted kind, const char* call) {
    count(kind);
    tell(call, kind, current);
}

void launch() {
    count(LAUNCHES);
    add_to_graph();
}

void* new_handle() { return calloc(1, 64); }

EXPORT long null_cuda_count(int kind, int device) { return counts[device][kind]; }
EXPORT void null_cuda_launch() { launch(); }
EXPORT void null_cuda_listen(Listener told) { listener = told; }
