// HCCL's header, and what the one of an older torch_npu lacks of it: build.py defines LACKS_ and the name.
#pragma once
#ifdef LACKS_HcclCMDType
// It declares these two otherwise; the symbols are the same.
#define HcclAllGatherV declared_HcclAllGatherV
#define HcclReduceScatterV declared_HcclReduceScatterV
#endif
#include "hccl/hccl.h"
#undef HcclAllGatherV
#undef HcclReduceScatterV

#ifdef LACKS_HcclCMDType
enum HcclCMDType {
    HCCL_CMD_INVALID, HCCL_CMD_BROADCAST, HCCL_CMD_ALLREDUCE, HCCL_CMD_REDUCE, HCCL_CMD_SEND, HCCL_CMD_RECEIVE, HCCL_CMD_ALLGATHER,
    HCCL_CMD_REDUCE_SCATTER, HCCL_CMD_ALLTOALLV, HCCL_CMD_ALLTOALLVC, HCCL_CMD_ALLTOALL, HCCL_CMD_GATHER, HCCL_CMD_SCATTER,
    HCCL_CMD_BATCH_SEND_RECV, HCCL_CMD_BATCH_PUT, HCCL_CMD_BATCH_GET, HCCL_CMD_ALLGATHER_V, HCCL_CMD_REDUCE_SCATTER_V,
    HCCL_CMD_BARRIER = 103,
};
#endif
#ifdef LACKS_HCCL_E_OOM
constexpr HcclResult HCCL_E_OOM = HCCL_E_MEMORY;
#endif
#ifdef LACKS_HCCL_COMM_BUFFSIZE_CONFIG_NOT_SET
constexpr uint32_t HCCL_COMM_BUFFSIZE_CONFIG_NOT_SET = 0xffffffff;
#endif
