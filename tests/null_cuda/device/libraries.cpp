// cuBLAS and NCCL. Their functions take more arguments than are declared here, which C lets them.
#include "null.h"

#include <cstdlib>
#include <cstring>

#define SUCCEED(name) EXPORT int name() { return 0; }
#define COMPUTE(name)      \
    EXPORT int name() {    \
        launch();          \
        return 0;          \
    }
#define CREATE(name)                \
    EXPORT int name(void** made) {  \
        *made = calloc(1, 1024);    \
        return 0;                   \
    }

// --- cuBLAS: a product is a launch ---

CREATE(cublasCreate_v2)
SUCCEED(cublasDestroy_v2)
SUCCEED(cublasSetStream_v2)
SUCCEED(cublasSetWorkspace_v2)
SUCCEED(cublasSetMathMode)
SUCCEED(cublasSetPointerMode_v2)
SUCCEED(cublasSetSmCountTarget)
EXPORT size_t cublasLtGetVersion() { return CUDART_VERSION / 1000 * 10000; }
EXPORT int cublasGetMathMode(void*, int* mode) { return *mode = 0; }
EXPORT int cublasGetPointerMode_v2(void*, int* mode) { return *mode = 0; }

COMPUTE(cublasGemmEx)
COMPUTE(cublasGemmStridedBatchedEx)
COMPUTE(cublasSgemmEx)
COMPUTE(cublasSgemm_v2)
COMPUTE(cublasSgemmStridedBatched)
COMPUTE(cublasSgemv_v2)
COMPUTE(cublasSdot_v2)
COMPUTE(cublasDgemm_v2)
COMPUTE(cublasDgemmStridedBatched)
COMPUTE(cublasDgemv_v2)
COMPUTE(cublasDdot_v2)
COMPUTE(cublasDotEx)

CREATE(cublasLtMatmulDescCreate)
SUCCEED(cublasLtMatmulDescDestroy)
SUCCEED(cublasLtMatmulDescSetAttribute)
CREATE(cublasLtMatmulPreferenceCreate)
SUCCEED(cublasLtMatmulPreferenceDestroy)
SUCCEED(cublasLtMatmulPreferenceSetAttribute)
CREATE(cublasLtMatrixLayoutCreate)
SUCCEED(cublasLtMatrixLayoutDestroy)
SUCCEED(cublasLtMatrixLayoutSetAttribute)
EXPORT int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int,
                                          void* algorithm, int* found) {
    memset(algorithm, 0, 64);
    *found = 1;
    return 0;
}
SUCCEED(cublasLtMatmulAlgoCheck)
COMPUTE(cublasLtMatmul)

// --- NCCL: a process has only its own share ---

struct Ranks {
    int own, number;
};
struct UniqueId {
    char bytes[128];
};

// By ncclDataType_t: int8, uint8, int32, uint32, int64, uint64, fp16, fp32, fp64, bf16, fp8, fp8.
static constexpr size_t SIZES[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};

EXPORT int ncclGetVersion(int* version) {
    *version = 22703;
    return 0;
}
EXPORT int ncclGetUniqueId(UniqueId* id) {
    memset(id, 1, sizeof *id);
    return 0;
}
EXPORT int ncclCommInitRankConfig(Ranks** made, int number, UniqueId, int own, void*) {
    bind_thread();
    *made = new Ranks{own, number};
    return 0;
}
EXPORT int ncclCommInitRank(Ranks** made, int number, UniqueId id, int own) {
    return ncclCommInitRankConfig(made, number, id, own, nullptr);
}
EXPORT int ncclCommInitRankScalable(Ranks** made, int number, int own, int, UniqueId*, void*) {
    return ncclCommInitRankConfig(made, number, UniqueId{}, own, nullptr);
}
EXPORT int ncclCommCount(const Ranks* ranks, int* number) {
    *number = ranks->number;
    return 0;
}
EXPORT int ncclCommUserRank(const Ranks* ranks, int* own) {
    *own = ranks->own;
    return 0;
}
EXPORT int ncclCommGetAsyncError(const Ranks*, int* error) { return *error = 0; }
EXPORT const char* ncclGetErrorString(int) { return "error of the null NCCL"; }
EXPORT const char* ncclGetLastError(void*) { return "error of the null NCCL"; }
SUCCEED(ncclCommFinalize)
SUCCEED(ncclCommDestroy)
SUCCEED(ncclCommAbort)
SUCCEED(ncclCommRegister)
SUCCEED(ncclCommDeregister)
SUCCEED(ncclGroupStart)
SUCCEED(ncclGroupEnd)

EXPORT int ncclAllReduce(const void* from, void* to, size_t number, int type, int, void*, void*) {
    launch();
    if (from != to) memcpy(to, from, number * SIZES[type]);
    return 0;
}
EXPORT int ncclAllGather(const char* from, char* to, size_t number, int type, const Ranks* ranks,
                         void*) {
    launch();
    size_t size = number * SIZES[type];
    for (int rank = 0; rank < ranks->number; rank++)
        if (to + rank * size != from) memcpy(to + rank * size, from, size);
    return 0;
}
COMPUTE(ncclBroadcast)
COMPUTE(ncclBcast)
COMPUTE(ncclReduce)
COMPUTE(ncclReduceScatter)
COMPUTE(ncclSend)
COMPUTE(ncclRecv)
