// The older operator interface (aclop). torch_npu reaches it past the dispatcher in one place that training meets:
// ProcessGroupHCCL pads what it gathers with PadV3. Any other operator fails with its name.
#include "machine.hpp"

#include "acl/acl.h"
#include "acl/acl_op_compiler.h"
#include "acl/error_codes/rt_error_codes.h"

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

struct aclTensorDesc {
    aclDataType type;
    std::vector<int64_t> dims;
    aclFormat format;
    std::string name;
};
struct aclDataBuffer { void *data; size_t size; };
struct aclopAttr { std::vector<std::string> names; };

namespace {
size_t size_of(aclDataType type) {
    switch (type) {
        case ACL_INT8: case ACL_UINT8: case ACL_BOOL: return 1;
        case ACL_FLOAT16: case ACL_BF16: case ACL_INT16: case ACL_UINT16: return 2;
        case ACL_FLOAT: case ACL_INT32: case ACL_UINT32: return 4;
        case ACL_INT64: case ACL_UINT64: case ACL_DOUBLE: case ACL_COMPLEX64: return 8;
        default: return 0;
    }
}

int refuse(const char *op, const char *why) {
    fprintf(stderr, "emulated CANN: aclop %s %s is not emulated (docs/emulated-cann.md)\n", op, why);
    return emulated::fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "aclop %s %s is not emulated", op, why);
}

std::vector<int64_t> integers(const aclTensorDesc *desc, const aclDataBuffer *buffer) {
    std::vector<int64_t> all;
    for (size_t i = 0; i < buffer->size / size_of(desc->type); ++i)
        all.push_back(desc->type == ACL_INT64 ? static_cast<int64_t *>(buffer->data)[i] : static_cast<int32_t *>(buffer->data)[i]);
    return all;
}

// x, (before, after) per dimension, and a value: y holds x, surrounded by the value.
int pad(const aclTensorDesc *const *in_desc, const aclDataBuffer *const *in, const aclTensorDesc *out_desc, aclDataBuffer *out) {
    const auto &from = in_desc[0]->dims, &to = out_desc->dims;
    const size_t size = size_of(in_desc[0]->type);
    if (!size || (in_desc[1]->type != ACL_INT64 && in_desc[1]->type != ACL_INT32)) return refuse("PadV3", "of this type");
    auto around = integers(in_desc[1], in[1]);
    if (around.size() != 2 * from.size() || in[2]->size < size) return refuse("PadV3", "of this form");
    int64_t count = 1, total = 1;
    for (int64_t d : to) total *= d;
    for (int64_t d : from) count *= d;
    auto *bytes = static_cast<char *>(out->data);
    for (int64_t i = 0; i < total; ++i) memcpy(bytes + i * size, in[2]->data, size);
    for (int64_t i = 0; i < count; ++i) {
        int64_t rest = i, at = 0, stride = 1;
        for (size_t d = from.size(); d-- > 0;) {
            at += (rest % from[d] + around[2 * d]) * stride;
            rest /= from[d];
            stride *= to[d];
        }
        memcpy(bytes + at * size, static_cast<char *>(in[0]->data) + i * size, size);
    }
    return ACL_SUCCESS;
}
int fill(const aclTensorDesc *const *in_desc, const aclDataBuffer *const *in, const aclTensorDesc *out_desc, aclDataBuffer *out) {
    const size_t size = size_of(out_desc->type);
    if (!size || in_desc[1]->type != out_desc->type || in[1]->size < size) return refuse("Fill", "of this type");
    int64_t total = 1;
    for (int64_t d : out_desc->dims) total *= d;
    for (int64_t i = 0; i < total; ++i) memcpy(static_cast<char *>(out->data) + i * size, in[1]->data, size);
    return ACL_SUCCESS;
}
}  // namespace

extern "C" {
aclTensorDesc *aclCreateTensorDesc(aclDataType type, int n, const int64_t *dims, aclFormat format) {
    return new aclTensorDesc{type, std::vector<int64_t>(dims, dims + n), format, ""};
}
void aclDestroyTensorDesc(const aclTensorDesc *desc) { delete desc; }
aclDataType aclGetTensorDescType(const aclTensorDesc *desc) { return desc->type; }
aclFormat aclGetTensorDescFormat(const aclTensorDesc *desc) { return desc->format; }
size_t aclGetTensorDescNumDims(const aclTensorDesc *desc) { return desc->dims.size(); }
aclError aclGetTensorDescDimV2(const aclTensorDesc *desc, size_t i, int64_t *dim) {
    if (i >= desc->dims.size()) return emulated::fail(ACL_ERROR_INVALID_PARAM, "aclGetTensorDescDimV2: dimension %zu of %zu", i, desc->dims.size());
    *dim = desc->dims[i];
    return ACL_SUCCESS;
}
void aclSetTensorDescName(aclTensorDesc *desc, const char *name) { desc->name = name ? name : ""; }
aclError aclSetTensorFormat(aclTensorDesc *desc, aclFormat format) {
    if (format != ACL_FORMAT_ND && format != ACL_FORMAT_NCHW && format != desc->format) return refuse("storage format", std::to_string(int(format)).c_str());
    return ACL_SUCCESS;
}
aclError aclSetTensorShape(aclTensorDesc *, int, const int64_t *) { return ACL_SUCCESS; }        // the storage shape: ND has only one
aclError aclSetTensorPlaceMent(aclTensorDesc *, aclMemType) { return ACL_SUCCESS; }              // one memory serves host and card
aclDataBuffer *aclCreateDataBuffer(void *data, size_t size) { return new aclDataBuffer{data, size}; }
aclError aclDestroyDataBuffer(const aclDataBuffer *buffer) { delete buffer; return ACL_SUCCESS; }

aclopAttr *aclopCreateAttr() { return new aclopAttr; }
void aclopDestroyAttr(const aclopAttr *attr) { delete attr; }
static aclError named(aclopAttr *attr, const char *name) { attr->names.push_back(name); return ACL_SUCCESS; }
aclError aclopSetAttrBool(aclopAttr *a, const char *n, uint8_t) { return named(a, n); }
aclError aclopSetAttrInt(aclopAttr *a, const char *n, int64_t) { return named(a, n); }
aclError aclopSetAttrFloat(aclopAttr *a, const char *n, float) { return named(a, n); }
aclError aclopSetAttrString(aclopAttr *a, const char *n, const char *value) {
    if (strcmp(n, "mode") == 0 && strcmp(value, "constant") != 0) return refuse("PadV3", value);
    return named(a, n);
}
aclError aclopSetAttrDataType(aclopAttr *a, const char *n, aclDataType) { return named(a, n); }
aclError aclopSetAttrListBool(aclopAttr *a, const char *n, int, const uint8_t *) { return named(a, n); }
aclError aclopSetAttrListInt(aclopAttr *a, const char *n, int, const int64_t *) { return named(a, n); }
aclError aclopSetAttrListFloat(aclopAttr *a, const char *n, int, const float *) { return named(a, n); }
aclError aclopSetAttrListListInt(aclopAttr *a, const char *n, int, const int *, const int64_t *const[]) { return named(a, n); }

aclError aclopCompileAndExecute(const char *op, int inputs, const aclTensorDesc *const in_desc[], const aclDataBuffer *const in[], int outputs,
                                const aclTensorDesc *const out_desc[], aclDataBuffer *const out[], const aclopAttr *, aclopEngineType,
                                aclopCompileType, const char *, aclrtStream) {
    if (strcmp(op, "PadV3") == 0 && inputs == 3 && outputs == 1) return pad(in_desc, in, out_desc[0], out[0]);
    if (strcmp(op, "Fill") == 0 && inputs == 2 && outputs == 1) return fill(in_desc, in, out_desc[0], out[0]);
    return refuse(op, "");
}
}
