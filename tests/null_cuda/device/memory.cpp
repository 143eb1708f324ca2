// Memory: the host's, reserved page by page as it is written, so that 80 GiB cost nothing.
#include "null.h"

#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>

namespace {

enum Kind { PAGEABLE, DEVICE, PINNED_HOST };

struct Block {
    size_t size;
    Kind kind;
    int device;
};

// Larger copies within a device are left out, as kernels are: what they move is meaningless.
constexpr size_t MOVED_WITHIN_DEVICE = 1 << 20;
constexpr size_t PAGE = 4096;

std::mutex guard;
std::map<uintptr_t, Block> blocks;  // by address
size_t used[MOST_DEVICES];

const Block* block_of(const void* pointer) {
    auto next = blocks.upper_bound(uintptr_t(pointer));
    if (next == blocks.begin()) return nullptr;
    auto& [start, block] = *--next;
    return uintptr_t(pointer) < start + block.size ? &block : nullptr;
}

Kind kind_of(const void* pointer) {
    std::lock_guard<std::mutex> hold(guard);
    const Block* block = block_of(pointer);
    return block ? block->kind : PAGEABLE;
}

bool is_free(size_t size, int device) {
    return device != settings().full && used[device] + size <= settings().memory;
}

cudaError_t allocate(void** pointer, size_t size, Kind kind) {
    *pointer = nullptr;
    int device = current_device();
    size = size ? (size + PAGE - 1) / PAGE * PAGE : PAGE;
    std::lock_guard<std::mutex> hold(guard);
    if (kind == DEVICE && !is_free(size, device)) return cudaErrorMemoryAllocation;
    void* found = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) return cudaErrorMemoryAllocation;
    blocks[uintptr_t(found)] = {size, kind, device};
    if (kind == DEVICE) used[device] += size;
    *pointer = found;
    return cudaSuccess;
}

cudaError_t release(void* pointer) {
    std::lock_guard<std::mutex> hold(guard);
    auto found = blocks.find(uintptr_t(pointer));
    if (found == blocks.end()) return cudaSuccess;
    Block block = found->second;
    if (block.kind == DEVICE) used[block.device] -= block.size;
    munmap(pointer, block.size);
    blocks.erase(found);
    return cudaSuccess;
}

// A copy between pageable memory and a device keeps the host: the driver stages it.
cudaError_t copy(void* to, const void* from, size_t size, bool blocks_host, cudaStream_t stream,
                 const char* call) {
    Kind target = kind_of(to), source = kind_of(from);
    bool within = target == DEVICE && source == DEVICE;
    bool staged = !within && (target == PAGEABLE || source == PAGEABLE);
    if (staged && is_capturing(stream)) return cudaErrorStreamCaptureUnsupported;
    count(COPIES);
    if (staged || blocks_host) count_and_tell(WAITS, call);
    add_to_graph();
    if (!within || size <= MOVED_WITHIN_DEVICE) memcpy(to, from, size);
    return cudaSuccess;
}

}  // namespace

cudaError_t remember(cudaError_t error);  // runtime.cpp

EXPORT cudaError_t cudaMalloc(void** pointer, size_t size) {
    count(ALLOCATIONS);
    return remember(allocate(pointer, size, DEVICE));
}
EXPORT cudaError_t cudaMallocAsync(void** pointer, size_t size, cudaStream_t) {
    return cudaMalloc(pointer, size);
}
EXPORT cudaError_t cudaFree(void* pointer) {
    if (!pointer) {
        bind_thread();
        return cudaSuccess;
    }
    count_and_tell(WAITS, "cudaFree");  // it waits for all that the device has to do
    return release(pointer);
}
EXPORT cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return release(pointer); }
EXPORT cudaError_t cudaHostAlloc(void** pointer, size_t size, unsigned) {
    count(PINNED);
    return remember(allocate(pointer, size, PINNED_HOST));
}
EXPORT cudaError_t cudaFreeHost(void* pointer) { return release(pointer); }
EXPORT cudaError_t cudaHostRegister(void* pointer, size_t size, unsigned) {
    bind_thread();
    std::lock_guard<std::mutex> hold(guard);
    blocks[uintptr_t(pointer)] = {size, PINNED_HOST, current_device()};
    return cudaSuccess;
}
EXPORT cudaError_t cudaHostUnregister(void* pointer) {
    std::lock_guard<std::mutex> hold(guard);
    blocks.erase(uintptr_t(pointer));
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    bind_thread();
    std::lock_guard<std::mutex> hold(guard);
    int device = current_device();
    *total = settings().memory;
    *free = device == settings().full ? 0 : *total - used[device];
    return cudaSuccess;
}
EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* pointer) {
    bind_thread();
    std::lock_guard<std::mutex> hold(guard);
    const Block* block = block_of(pointer);
    memset(found, 0, sizeof *found);
    found->type = cudaMemoryTypeUnregistered;
    found->device = -2;
    if (!block) return cudaSuccess;
    found->type = block->kind == DEVICE ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    found->device = block->device;
    found->hostPointer = found->devicePointer = const_cast<void*>(pointer);
    return cudaSuccess;
}
EXPORT CUresult cuPointerGetAttribute(void* value, CUpointer_attribute what, CUdeviceptr pointer) {
    if (what != CU_POINTER_ATTRIBUTE_DEVICE_POINTER) return CUDA_SUCCESS;
    // Triton's launcher refuses a tensor of the host by this answer.
    if (pointer && kind_of(reinterpret_cast<void*>(pointer)) == PAGEABLE)
        return CUDA_ERROR_INVALID_VALUE;
    *static_cast<CUdeviceptr*>(value) = pointer;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuPointerGetAttributes(unsigned number, CUpointer_attribute* what, void** values,
                                       CUdeviceptr pointer) {
    for (unsigned i = 0; i < number; i++) cuPointerGetAttribute(values[i], what[i], pointer);
    return CUDA_SUCCESS;
}

EXPORT cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
    return remember(copy(to, from, size, true, nullptr, "cudaMemcpy"));
}
EXPORT cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind,
                                   cudaStream_t stream) {
    return remember(copy(to, from, size, false, stream, "cudaMemcpyAsync of pageable memory"));
}
EXPORT cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size,
                                       cudaStream_t stream) {
    return remember(copy(to, from, size, false, stream, "cudaMemcpyPeerAsync"));
}
EXPORT cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                     size_t width, size_t height, cudaMemcpyKind,
                                     cudaStream_t stream) {
    for (size_t row = 0; row < height; row++) {
        auto* target = static_cast<char*>(to) + row * to_pitch;
        auto* source = static_cast<const char*>(from) + row * from_pitch;
        cudaError_t error = copy(target, source, width, false, stream, "cudaMemcpy2DAsync");
        if (error != cudaSuccess) return remember(error);
    }
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) {
    return cudaSuccess;
}
EXPORT cudaError_t cudaGetSymbolAddress(void** pointer, const void*) {
    return cudaMalloc(pointer, PAGE);
}
EXPORT cudaError_t cudaMemsetAsync(void* pointer, int value, size_t size, cudaStream_t) {
    launch();
    if (size <= MOVED_WITHIN_DEVICE) memset(pointer, value, size);
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemset(void* pointer, int value, size_t size) {
    return cudaMemsetAsync(pointer, value, size, nullptr);
}

EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
    *static_cast<size_t*>(value) = 0;
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, const cudaMemAccessDesc*, size_t) {
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
