// What the files of the null device share: its settings, its counters, its contexts.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstddef>

#define EXPORT extern "C" __attribute__((visibility("default")))

constexpr int MOST_DEVICES = 16;

// How the device looks, from the environment at its first use (../device.py names the variables).
struct Settings {
    int devices;
    size_t memory;  // bytes of each
    int major, minor;  // compute capability
    int full;  // a device whose memory others hold; -1 for none
};
const Settings& settings();

// In the order of COUNTED in ../watch.py.
enum Counted { LAUNCHES, GRAPH_LAUNCHES, WAITS, COPIES, ALLOCATIONS, PINNED, CONTEXTS, MODULES, KINDS };

// The thread's device, as cudaGetDevice tells it.
int current_device();
void set_current_device(int device);

// A thread's first call that needs a device binds the primary context of its current one.
bool has_context(int device);
bool thread_is_bound();
void bind_thread();
void unbind_thread();
void open_context(int device);

// Count something on the current device.
void count(Counted kind);
// Count something and tell the listener which call it was.
void count_and_tell(Counted kind, const char* call);

// Capture of graphs.
bool is_capturing(const void* stream);
bool anything_captures();
void add_to_graph();

// Count a kernel of the current device.
void launch();

void* new_handle();
