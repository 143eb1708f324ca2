// The CUDA runtime: devices, waiting, streams, events, graphs, kernels.
#include "null.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <mutex>
#include <set>

#undef cudaGetDeviceProperties  // CUDA 12's headers rename it

namespace {

thread_local cudaError_t last_error = cudaSuccess;

std::mutex guard;
std::set<const void*> capturing;  // streams
unsigned long long captures = 0;
size_t nodes = 0;  // of the graph that is being captured

int shared_memory() {  // bytes that a block may ask for
    int capability = settings().major * 10 + settings().minor;
    if (capability < 80) return 64 << 10;
    if (capability >= 90) return 227 << 10;
    return capability == 80 || capability == 87 ? 163 << 10 : 99 << 10;
}

struct Launch {
    dim3 grid, block;
    size_t shared;
    void* stream;
};
thread_local Launch pushed;

}  // namespace

cudaError_t remember(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

bool is_capturing(const void* stream) {
    std::lock_guard<std::mutex> hold(guard);
    return capturing.count(stream);
}
bool anything_captures() {
    std::lock_guard<std::mutex> hold(guard);
    return !capturing.empty();
}
void add_to_graph() {
    std::lock_guard<std::mutex> hold(guard);
    nodes += !capturing.empty();
}

// --- devices ---

EXPORT cudaError_t cudaGetDeviceCount(int* number) {
    *number = settings().devices;
    return cudaSuccess;
}
EXPORT cudaError_t cudaGetDevice(int* device) {
    *device = current_device();
    return cudaSuccess;
}
EXPORT cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= settings().devices) return remember(cudaErrorInvalidDevice);
    set_current_device(device);
    bind_thread();  // since CUDA 12
    return cudaSuccess;
}
EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int device) {
    memset(found, 0, sizeof *found);
    strcpy(found->name, "NVIDIA null device");
    memset(found->uuid.bytes, device + 1, sizeof found->uuid.bytes);
    found->major = settings().major;
    found->minor = settings().minor;
    found->totalGlobalMem = settings().memory;
    found->multiProcessorCount = 108;
    found->maxThreadsPerMultiProcessor = 2048;
    found->maxBlocksPerMultiProcessor = 32;
    found->maxThreadsPerBlock = 1024;
    found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
    found->maxThreadsDim[2] = 64;
    found->maxGridSize[0] = 2147483647;
    found->maxGridSize[1] = found->maxGridSize[2] = 65535;
    found->warpSize = 32;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->sharedMemPerBlock = 48 << 10;
    found->sharedMemPerBlockOptin = shared_memory();
    found->sharedMemPerMultiprocessor = shared_memory() + 1024;
    found->reservedSharedMemPerBlock = 1024;
    found->totalConstMem = 65536;
    found->l2CacheSize = 40 << 20;
    found->memoryBusWidth = 5120;
    found->memPitch = 1u << 31;
    found->textureAlignment = 512;
    found->asyncEngineCount = 3;
    found->unifiedAddressing = found->concurrentKernels = found->canMapHostMemory = 1;
    found->cooperativeLaunch = found->memoryPoolsSupported = 1;
    found->pciBusID = device;
    return cudaSuccess;
}
EXPORT cudaError_t cudaGetDeviceProperties_v2(cudaDeviceProp* found, int device) {  // CUDA 12
    return cudaGetDeviceProperties(found, device);
}
EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
    switch (what) {
        case cudaDevAttrComputeCapabilityMajor: *value = settings().major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = settings().minor; break;
        case cudaDevAttrMultiProcessorCount: *value = 108; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
        case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
        case cudaDevAttrMaxGridDimY: *value = 65535; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = shared_memory(); break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = shared_memory() + 1024; break;
        case cudaDevAttrReservedSharedMemoryPerBlock: *value = 1024; break;
        case cudaDevAttrL2CacheSize: *value = 40 << 20; break;
        default: *value = 1;
    }
    return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
    *can = 1;
    return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
EXPORT cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
    snprintf(text, size, "0000:%02x:00.0", device);
    return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
    *pool = static_cast<cudaMemPool_t>(new_handle());
    return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetGraphMemAttribute(int, cudaGraphMemAttributeType, void* value) {
    *static_cast<size_t*>(value) = 0;
    return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceSetGraphMemAttribute(int, cudaGraphMemAttributeType, void*) {
    return cudaSuccess;
}
EXPORT cudaError_t cudaDriverGetVersion(int* version) {
    *version = CUDART_VERSION / 1000 * 1000;
    return cudaSuccess;
}
EXPORT cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
EXPORT cudaError_t cudaProfilerStart() { return cudaSuccess; }
EXPORT cudaError_t cudaProfilerStop() { return cudaSuccess; }

// --- errors ---

EXPORT cudaError_t cudaGetLastError() {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
EXPORT cudaError_t cudaPeekAtLastError() { return last_error; }
EXPORT const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "no error";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorInvalidDevice: return "invalid device ordinal";
        case cudaErrorStreamCaptureUnsupported:
            return "operation not permitted when stream is capturing";
        default: return "error of the null device";
    }
}
EXPORT const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }

// --- waiting ---

EXPORT cudaError_t cudaDeviceSynchronize() {
    if (anything_captures()) return remember(cudaErrorStreamCaptureUnsupported);
    count_and_tell(WAITS, "cudaDeviceSynchronize");
    return cudaSuccess;
}
EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (is_capturing(stream)) return remember(cudaErrorStreamCaptureUnsupported);
    count_and_tell(WAITS, "cudaStreamSynchronize");
    return cudaSuccess;
}
EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t) {
    count_and_tell(WAITS, "cudaEventSynchronize");
    return cudaSuccess;
}
EXPORT cudaError_t cudaStreamQuery(cudaStream_t stream) {
    return is_capturing(stream) ? remember(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
EXPORT cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }

// --- events and streams ---

EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    bind_thread();
    *event = static_cast<cudaEvent_t>(new_handle());
    return cudaSuccess;
}
EXPORT cudaError_t cudaEventCreate(cudaEvent_t* event) {
    return cudaEventCreateWithFlags(event, 0);
}
EXPORT cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}
EXPORT cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
    *milliseconds = 0.01f;
    return cudaSuccess;
}
EXPORT cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t, cudaStream_t, unsigned) {
    return cudaSuccess;
}
EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
    bind_thread();
    *stream = static_cast<cudaStream_t>(new_handle());
    return cudaSuccess;
}
EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    return cudaStreamCreateWithPriority(stream, 0, 0);
}
EXPORT cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    return cudaStreamCreateWithPriority(stream, 0, 0);
}
EXPORT cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
    *priority = 0;
    return cudaSuccess;
}
EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t call, void* data,
                                         unsigned) {
    call(stream, cudaSuccess, data);
    return cudaSuccess;
}
EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t call, void* data) {
    call(data);
    return cudaSuccess;
}
EXPORT cudaError_t cudaIpcCloseMemHandle(void*) { return cudaErrorNotSupported; }
EXPORT cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t*, cudaEvent_t) {
    return cudaErrorNotSupported;
}
EXPORT cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t*, void*) { return cudaErrorNotSupported; }
EXPORT cudaError_t cudaIpcOpenEventHandle(cudaEvent_t*, cudaIpcEventHandle_t) {
    return cudaErrorNotSupported;
}
EXPORT cudaError_t cudaIpcOpenMemHandle(void**, cudaIpcMemHandle_t, unsigned) {
    return cudaErrorNotSupported;
}

// --- graphs: a graph is the number of its nodes ---

EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    bind_thread();
    std::lock_guard<std::mutex> hold(guard);
    capturing.insert(stream);
    captures++;
    nodes = 0;
    return cudaSuccess;
}
EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    std::lock_guard<std::mutex> hold(guard);
    capturing.erase(stream);
    auto* size = static_cast<size_t*>(new_handle());
    *size = nodes;
    *graph = reinterpret_cast<cudaGraph_t>(size);
    return cudaSuccess;
}
EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = is_capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) {
    return cudaSuccess;
}
EXPORT cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* number) {
    *number = *reinterpret_cast<size_t*>(graph);
    return cudaSuccess;
}
EXPORT cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* graph, cudaGraph_t,
                                                 unsigned long long) {
    *graph = static_cast<cudaGraphExec_t>(new_handle());
    return cudaSuccess;
}
EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) {
    count(GRAPH_LAUNCHES);
    return cudaSuccess;
}
EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    free(graph);
    return cudaSuccess;
}
EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    free(graph);
    return cudaSuccess;
}
EXPORT cudaError_t cudaGraphRetainUserObject(cudaGraph_t, cudaUserObject_t, unsigned, unsigned) {
    return cudaSuccess;
}
EXPORT cudaError_t cudaUserObjectCreate(cudaUserObject_t*, void*, cudaHostFn_t, unsigned,
                                        unsigned) {
    return cudaSuccess;
}
EXPORT cudaError_t cudaUserObjectRelease(cudaUserObject_t, unsigned) { return cudaSuccess; }

namespace {
cudaError_t capture_info(cudaStream_t stream, cudaStreamCaptureStatus* status,
                         unsigned long long* id, cudaGraph_t* graph,
                         const cudaGraphNode_t** dependencies, size_t* number) {
    if (id) *id = captures;
    if (graph) *graph = nullptr;
    if (dependencies) *dependencies = nullptr;
    if (number) *number = 0;
    return cudaStreamIsCapturing(stream, status);
}
}  // namespace

#if CUDART_VERSION >= 13000
EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                            unsigned long long* id, cudaGraph_t* graph,
                                            const cudaGraphNode_t** dependencies,
                                            const cudaGraphEdgeData** edges, size_t* number) {
    if (edges) *edges = nullptr;
    return capture_info(stream, status, id, graph, dependencies, number);
}
#else
EXPORT cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                               unsigned long long* id, cudaGraph_t* graph,
                                               const cudaGraphNode_t** dependencies,
                                               size_t* number) {
    return capture_info(stream, status, id, graph, dependencies, number);
}
#endif

// --- kernels ---

EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
    pushed = {grid, block, shared, stream};
    return 0;
}
EXPORT cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared,
                                              void* stream) {
    *grid = pushed.grid;
    *block = pushed.block;
    *shared = pushed.shared;
    *static_cast<void**>(stream) = pushed.stream;
    return cudaSuccess;
}
EXPORT void** __cudaRegisterFatBinary(void*) { return static_cast<void**>(new_handle()); }
EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
EXPORT void __cudaUnregisterFatBinary(void**) {}
EXPORT void __cudaRegisterFunction(void**, const char*, char*, const char*, int, void*, void*,
                                   void*, void*, int*) {}
EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
EXPORT char __cudaInitModule(void**) { return 1; }
EXPORT cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function));
    return cudaSuccess;
}

EXPORT cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t) {
    launch();
    return cudaSuccess;
}
EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) {
    launch();
    return cudaSuccess;
}
EXPORT cudaError_t cudaLaunchCooperativeKernel(const void*, dim3, dim3, void**, size_t,
                                               cudaStream_t) {
    launch();
    return cudaSuccess;
}
EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**) {
    launch();
    return cudaSuccess;
}

EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024;
    found->numRegs = 32;
    found->ptxVersion = found->binaryVersion = 10 * settings().major + settings().minor;
    found->maxDynamicSharedSizeBytes = 48 << 10;
    return cudaSuccess;
}
EXPORT cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
EXPORT cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t, cudaFuncAttribute, int, int) {
    return cudaSuccess;
}
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* number, const void*,
                                                                 int block, size_t) {
    *number = block > 0 && block < 2048 ? 2048 / block : 1;
    return cudaSuccess;
}
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* number, const void* function, int block, size_t shared, unsigned) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(number, function, block, shared);
}
EXPORT cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t, const char*) {
    *kernel = static_cast<cudaKernel_t>(new_handle());
    return cudaSuccess;
}
EXPORT cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void*, cudaJitOption*, void**,
                                       unsigned, cudaLibraryOption*, void**, unsigned) {
    count(MODULES);
    *library = static_cast<cudaLibrary_t>(new_handle());
    return cudaSuccess;
}
EXPORT cudaError_t cudaLibraryUnload(cudaLibrary_t) { return cudaSuccess; }

// --- the way from the runtime to the driver ---

namespace {
CUresult succeed() { return CUDA_SUCCESS; }
}  // namespace

#if CUDART_VERSION >= 13000
EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                                    unsigned long long,
                                                    cudaDriverEntryPointQueryResult* result) {
#else
EXPORT cudaError_t cudaGetDriverEntryPoint(const char* name, void** function, unsigned long long,
                                           cudaDriverEntryPointQueryResult* result) {
#endif
    void* found = dlsym(RTLD_DEFAULT, name);
    *function = found ? found : reinterpret_cast<void*>(succeed);
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
