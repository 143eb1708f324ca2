// The CUDA driver, as far as Triton, Inductor and torch's allocator call it.
#include "null.h"

#include <cstdint>
#include <cstdio>

// The handle of a device's primary context.
static CUcontext context_of(int device) { return reinterpret_cast<CUcontext>(uintptr_t(device) + 1); }

EXPORT CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
EXPORT CUresult cuDriverGetVersion(int* version) {
    cudaDriverGetVersion(version);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetCount(int* number) {
    *number = settings().devices;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGet(CUdevice* device, int number) {
    *device = number;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetName(char* text, int size, CUdevice) {
    snprintf(text, size, "NVIDIA null device");
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute what, CUdevice device) {
    cudaDeviceGetAttribute(value, static_cast<cudaDeviceAttr>(what), device);
    return CUDA_SUCCESS;
}

// A thread without a context gets none here: Triton then takes that of device 0.
EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
    *context = thread_is_bound() ? context_of(current_device()) : nullptr;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
    if (!context) {
        unbind_thread();
        return CUDA_SUCCESS;
    }
    set_current_device(int(reinterpret_cast<uintptr_t>(context)) - 1);
    bind_thread();
    return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxGetDevice(CUdevice* device) {
    *device = current_device();
    return thread_is_bound() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
EXPORT CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }
EXPORT CUresult cuCtxGetLimit(size_t* value, CUlimit) {
    *value = 0;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    open_context(device);
    *context = context_of(device);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    *flags = 0;
    *active = has_context(device);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleLoadData(CUmodule* module, const void*) {
    count(MODULES);
    *module = static_cast<CUmodule>(new_handle());
    return CUDA_SUCCESS;
}
EXPORT CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*,
                                   void**) {
    return cuModuleLoadData(module, image);
}
EXPORT CUresult cuModuleLoad(CUmodule* module, const char*) {
    return cuModuleLoadData(module, nullptr);
}
EXPORT CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
EXPORT CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char*) {
    *function = static_cast<CUfunction>(new_handle());
    return CUDA_SUCCESS;
}
EXPORT CUresult cuFuncGetAttribute(int* value, CUfunction_attribute what, CUfunction) {
    *value = what == CU_FUNC_ATTRIBUTE_NUM_REGS               ? 32
             : what == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024
                                                               : 0;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
EXPORT CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
EXPORT CUresult cuOccupancyMaxActiveClusters(int* number, CUfunction, const CUlaunchConfig*) {
    *number = 1;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* number, CUfunction, int block,
                                                            size_t) {
    *number = block > 0 && block < 2048 ? 2048 / block : 1;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned,
                               unsigned, unsigned, CUstream, void**, void**) {
    launch();
    return CUDA_SUCCESS;
}
EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig*, CUfunction, void**, void**) {
    launch();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorString(CUresult error, const char** text) {
    *text = error == CUDA_ERROR_INVALID_CONTEXT ? "no context" : "error of the null driver";
    return CUDA_SUCCESS;
}
EXPORT CUresult cuGetErrorName(CUresult error, const char** text) {
    return cuGetErrorString(error, text);
}
