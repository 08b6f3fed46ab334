// CPU kernels for torch_npu's operators. Device memory is host memory, so a tensor of PrivateUse1 is seen as a
// CPU tensor over the same bytes, the CPU kernel of the same operator runs, and what it made moves to the card.
//
// Of the operators that torch_npu registers: metadata (KEPT) stays torch_npu's own; an aten operator with a CPU
// kernel gets `on_cpu`; a composite one gets its composite kernel; the fused ones of NPU training are written out
// below from their definitions; every other one raises with its name. Operators torch_npu does not register take
// torch_npu's own fallback to the CPU, as on hardware.
#include "machine.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/Resize.h>
#include <torch/library.h>

#include "torch_npu/csrc/aten/NPUGeneratorImpl.h"
#include "torch_npu/csrc/core/npu/NPUStream.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <unordered_set>
#include <vector>

namespace {
using at::Tensor;
using c10::DispatchKey;
using c10::IValue;
using Stack = torch::jit::Stack;

const std::unordered_set<std::string> KEPT = {
    "aten::empty.memory_format", "aten::empty_strided", "aten::empty_like", "aten::new_empty_strided",
    "aten::empty_with_format", "aten::unsafe_empty_with_format", "aten::as_strided", "aten::as_strided_",
    "aten::view", "aten::_reshape_alias", "aten::unfold", "aten::set_", "aten::set_.source_Storage",
    "aten::set_.source_Storage_storage_offset", "aten::set_.source_Tensor", "aten::resize_", "aten::resize_as_",
    "aten::record_stream", "aten::is_pinned", "aten::_pin_memory", "aten::is_set_to", "aten::view_as_complex",
    "aten::view_as_real", "aten::_to_copy", "aten::squeeze", "aten::squeeze.dim", "aten::unsqueeze", "aten::_fused_sdp_choice",
    "aten::get_npu_format", "aten::get_storage_size",
#ifdef LACKS_HcclCMDType        // an older torch_npu: these make float32 of float64, and its attention calls CANN past the dispatcher
    "aten::to.dtype", "aten::to.device", "aten::to.dtype_layout", "aten::to.other",
#else
    "aten::scaled_dot_product_attention",
#endif
    "npu::get_npu_format", "npu::get_storage_size", "npu::npu_change_data_ptr",
};

// Operators whose random numbers have no generator among their arguments.
const std::unordered_set<std::string> HIDDEN_RANDOM = {"aten::native_dropout", "aten::rrelu_with_noise", "aten::rrelu_with_noise_"};
// Operators after which a host has read device memory: here a failed collective must come out.
const std::unordered_set<std::string> READS_BACK = {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::is_nonzero"};
// CPU indices are allowed beside NPU tensors.
const std::unordered_set<std::string> MIXES = {"aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
                                               "aten::index.Tensor_out"};

bool on_npu(const Tensor &t) { return t.defined() && t.device().type() == c10::DeviceType::PrivateUse1; }

std::string name_of(const c10::OperatorHandle &op) {
    auto &n = op.operator_name();
    return n.overload_name.empty() ? n.name : n.name + "." + n.overload_name;
}

// torch_npu hands collectives to a thread of its own; they end before the next kernel begins.
void drain(c10::DeviceIndex device) { c10_npu::getCurrentNPUStream(device).stream(); }
void synchronise(c10::DeviceIndex device) { c10_npu::getCurrentNPUStream(device).synchronize(); }

void refuse_bf16(const std::string &op, c10::ScalarType type) {
    TORCH_CHECK(type != at::kBFloat16 || emulated::soc().bf16, "EZ1001: ", op, ": self not implemented for DT_BFLOAT16, should be in dtype support list [DT_FLOAT,DT_FLOAT16,] on ",
                emulated::soc().name);
}

// The first 910 saturates and raises a flag in a status register, which loss scaling reads. A CPU gives inf and nan;
// here an operator that makes one from finite numbers raises the flag.
std::atomic<bool> overflowed{false};
bool finite(const Tensor &cpu) { return !cpu.defined() || !cpu.is_floating_point() || at::isfinite(cpu).all().item<bool>(); }

// The CPU views of one call. Two tensors over one storage must stay over one storage.
struct Views {
    std::vector<std::pair<c10::StorageImpl *, c10::Storage>> storages;
    std::vector<std::pair<Tensor, Tensor>> tensors;       // NPU, CPU

    c10::Storage storage(const Tensor &t) {
        auto *impl = t.storage().unsafeGetStorageImpl();
        for (auto &s : storages)
            if (s.first == impl) return s.second;
        auto *keep = new c10::Storage(t.storage());
        at::DataPtr bytes(impl->mutable_data(), keep, [](void *p) { delete static_cast<c10::Storage *>(p); }, at::kCPU);
        c10::Storage cpu(c10::Storage::use_byte_size_t(), impl->nbytes(), std::move(bytes), c10::GetCPUAllocator(), true);
        storages.emplace_back(impl, cpu);
        return cpu;
    }
    Tensor cpu(const Tensor &t) {
        if (!on_npu(t)) return t;
        for (auto &seen : tensors)
            if (seen.first.is_same(t)) return seen.second;
        Tensor view = at::detail::make_tensor<c10::TensorImpl>(storage(t), c10::DispatchKeySet(DispatchKey::CPU), t.dtype());
        auto *impl = view.unsafeGetTensorImpl();
        impl->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
        if (t.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
        if (t.is_conj()) impl->_set_conj(true);
        if (t.is_neg()) impl->_set_neg(true);
        tensors.emplace_back(t, view);
        return view;
    }
    // A kernel that resized its output has changed the view, or given its storage other bytes.
    void write_back() {
        for (auto &[npu, cpu] : tensors) {
            bool moved = cpu.numel() && cpu.storage().data() != npu.storage().data();
            if (!moved && cpu.sizes() == npu.sizes() && cpu.strides() == npu.strides()) continue;
            at::native::resize_output(npu, cpu.sizes());
            if (cpu.strides() != npu.strides()) npu.as_strided_(cpu.sizes(), cpu.strides(), npu.storage_offset());
            if (moved) npu.copy_(cpu);
        }
    }
    Tensor npu(const Tensor &result, c10::Device device) {
        if (!result.defined() || on_npu(result)) return result;
        for (auto &seen : tensors)
            if (seen.second.is_same(result)) return seen.first;
        for (auto &[original, cpu] : storages) {
            if (result.storage().unsafeGetStorageImpl() != cpu.unsafeGetStorageImpl()) continue;
            for (auto &seen : tensors)
                if (seen.first.storage().unsafeGetStorageImpl() == original && seen.first.dtype() == result.dtype())
                    return seen.first.as_strided(result.sizes(), result.strides(), result.storage_offset());
        }
        if (result.device().type() != at::kCPU) return result;
        Tensor dense = result.is_non_overlapping_and_dense() ? result : result.contiguous();
        dense = dense.resolve_conj().resolve_neg();
        Tensor out = at::empty_strided(dense.sizes(), dense.strides(), dense.options().device(device));
        if (dense.numel()) memcpy(out.mutable_data_ptr(), dense.const_data_ptr(), dense.nbytes());
        if (result.unsafeGetTensorImpl()->is_wrapped_number()) out.unsafeGetTensorImpl()->set_wrapped_number(true);
        return out;
    }
};

// A CPU generator for one draw, from the NPU generator's seed and offset; a first draw is the CPU's own first draw.
at::Generator draw(at::Generator npu) {
    std::lock_guard<std::mutex> guard(npu.mutex());
    uint64_t seed = npu.current_seed(), offset = npu.get_offset();
    if (offset) {
        seed ^= offset * 0x9e3779b97f4a7c15ull;
        seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9ull;
        seed ^= seed >> 27;
    }
    npu.set_offset(offset + 4);
    return at::make_generator<at::CPUGeneratorImpl>(seed);
}

at::Generator default_generator(c10::DeviceIndex device) { return at_npu::detail::getDefaultNPUGenerator(device); }

// Put a generator in the place of the CPU's default one for as long as this lives.
struct HiddenRandom {
    at::Generator cpu = at::detail::getDefaultCPUGenerator(), before;
    explicit HiddenRandom(c10::DeviceIndex device) : before(cpu.clone()) { cpu.set_state(draw(default_generator(device)).get_state()); }
    ~HiddenRandom() { cpu.set_state(before.get_state()); }
};

void check_devices(const std::string &name, c10::Device npu, const Tensor &t) {
    if (!t.defined() || t.device() == npu) return;
    if (t.device().type() == at::kCPU && (t.dim() == 0 || MIXES.count(name))) return;
    TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", npu, " and ", t.device(),
                "! (", name, ") ERR01002 OPS invalid type");
}

void on_cpu(const c10::OperatorHandle &op, c10::DispatchKeySet, Stack *stack) {
    const auto &schema = op.schema();
    const std::string name = name_of(op);
    const size_t arguments = schema.arguments().size(), first = stack->size() - arguments;
    std::optional<c10::Device> device;
    bool explicit_device = false;

    for (size_t i = 0; i < arguments; ++i) {
        const IValue &v = (*stack)[first + i];
        auto look = [&](const Tensor &t) { if (on_npu(t) && !device) device = t.device(); };
        if (v.isTensor()) look(v.toTensor());
        else if (v.isTensorList()) for (const Tensor &t : v.toTensorVector()) look(t);
        else if (v.isList()) {
            for (const auto &item : v.toListRef())
                if (item.isTensor()) look(item.toTensor());
        } else if (v.isDevice() && v.toDevice().type() == c10::DeviceType::PrivateUse1 && !device) {
            device = v.toDevice();
            explicit_device = true;
        } else if (v.isGenerator() && v.toGenerator().device().type() == c10::DeviceType::PrivateUse1 && !device) {
            device = v.toGenerator().device();
        }
    }
    TORCH_CHECK(device, name, ": no NPU among the arguments (emulated CANN)");
    if (!device->has_index()) device = c10::Device(c10::DeviceType::PrivateUse1, c10_npu::getCurrentNPUStream().device_index());
    drain(device->index());
    if (READS_BACK.count(name)) synchronise(device->index());

    Views views;
    auto seen_as_cpu = [&](const Tensor &t) {
        if (!explicit_device) check_devices(name, *device, t);
        if (on_npu(t)) refuse_bf16(name, t.scalar_type());
        return views.cpu(t);
    };
    for (size_t i = 0; i < arguments; ++i) {
        IValue &v = (*stack)[first + i];
        if (v.isTensor()) v = seen_as_cpu(v.toTensor());
        else if (v.isTensorList()) {
            std::vector<Tensor> list = v.toTensorVector();
            for (Tensor &t : list) t = seen_as_cpu(t);
            v = IValue(c10::List<Tensor>(list));
        } else if (v.isList()) {
            auto items = v.toList();
            if (items.elementType()->isSubtypeOf(*c10::OptionalType::ofTensor())) {
                c10::List<std::optional<Tensor>> list;
                for (const IValue &item : v.toListRef())
                    list.push_back(item.isTensor() ? std::optional<Tensor>(seen_as_cpu(item.toTensor())) : std::nullopt);
                v = IValue(list);
            }
        } else if (v.isDevice() && v.toDevice().type() == c10::DeviceType::PrivateUse1) {
            v = IValue(c10::Device(at::kCPU));
        } else if (v.isGenerator() || schema.arguments()[i].type()->str().find("Generator") != std::string::npos) {
            v = IValue(draw(v.isGenerator() ? v.toGenerator() : default_generator(device->index())));
        } else if (v.isBool() && schema.arguments()[i].name() == "pin_memory") {
            v = IValue();
        }
    }
    {
        at::AutoDispatchBelowADInplaceOrView below;
        c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
        std::optional<HiddenRandom> random;
        if (HIDDEN_RANDOM.count(name)) random.emplace(device->index());
        bool watched = !emulated::soc().bf16 && !overflowed;
        for (size_t i = 0; i < arguments && watched; ++i) {
            const IValue &v = (*stack)[first + i];
            if (v.isTensor()) watched = finite(v.toTensor());
            else if (v.isTensorList()) for (const Tensor &t : v.toTensorVector()) watched &= finite(t);
            else if (v.isDouble()) watched = std::isfinite(v.toDouble());
        }
        op.callBoxed(stack);
        const size_t returns = schema.returns().size(), begin = stack->size() - returns;
        for (size_t i = 0; i < returns && watched; ++i) {
            const IValue &v = (*stack)[begin + i];
            if (v.isTensor()) overflowed = overflowed || !finite(v.toTensor());
            else if (v.isTensorList()) for (const Tensor &t : v.toTensorVector()) overflowed = overflowed || !finite(t);
        }
        views.write_back();
        for (size_t i = 0; i < returns; ++i) {
            IValue &v = (*stack)[begin + i];
            if (v.isTensor()) v = views.npu(v.toTensor(), *device);
            else if (v.isTensorList()) {
                std::vector<Tensor> list = v.toTensorVector();
                for (Tensor &t : list) t = views.npu(t, *device);
                v = IValue(c10::List<Tensor>(list));
            }
        }
    }
}

// torch before 2.10 has no public way to a kernel that was worked out, so build.py switches access control off.
const c10::KernelFunction &kernel_of(const c10::OperatorHandle &op, DispatchKey key) {
    return op.operatorDef_->op.lookup(c10::DispatchKeySet(key));
}

// The kernel another backend without kernels of its own would get: the composite one, or autograd's.
void as_any_backend(const c10::OperatorHandle &op, c10::DispatchKeySet keys, Stack *stack) {
    kernel_of(op, DispatchKey::MTIA).callBoxed(op, keys, stack);
}
void as_any_autograd(const c10::OperatorHandle &op, c10::DispatchKeySet keys, Stack *stack) {
    kernel_of(op, DispatchKey::AutogradMTIA).callBoxed(op, keys, stack);
}

void raises(const c10::OperatorHandle &op, c10::DispatchKeySet, Stack *) {
    C10_THROW_ERROR(NotImplementedError, "emulated CANN: " + name_of(op) + " is not emulated (docs/emulated-cann.md)");
}

// ---- copies ----
Tensor &copy_(Tensor &self, const Tensor &src, bool) {
    Views views;
    auto device = on_npu(self) ? self.device() : src.device();
    if (on_npu(self) && on_npu(src) && self.device() != src.device()) drain(src.device().index());
    drain(device.index());
    if (!on_npu(self)) synchronise(device.index());
    if (self.scalar_type() != src.scalar_type()) {
        refuse_bf16("aten::copy_", self.scalar_type());
        refuse_bf16("aten::copy_", src.scalar_type());
    }
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor to = views.cpu(self), from = views.cpu(src);
    to.copy_(from);
    if (!emulated::soc().bf16 && !overflowed && to.scalar_type() == at::kHalf && from.scalar_type() != at::kHalf && !finite(to) && finite(from)) overflowed = true;
    return self;
}
Tensor copy_from(const Tensor &self, const Tensor &dst, bool) {
    Tensor to = dst;
    copy_(to, self, false);
    return dst;
}
Tensor copy_from_and_resize(const Tensor &self, const Tensor &dst) {
    at::native::resize_output(dst, self.sizes());
    return copy_from(self, dst, false);
}
Tensor &copy_memory_(Tensor &self, const Tensor &src, bool) { return copy_(self, src, false); }

// ---- loss scaling ----
bool non_finite(at::TensorList grads) {
    for (const Tensor &g : grads)
        if (!at::isfinite(g).all().item<bool>()) return true;
    return false;
}

Tensor alloc_float_status(const Tensor &like) { return at::zeros({8}, like.options().dtype(at::kFloat)); }
Tensor get_float_status(const Tensor &status, int64_t) {
    drain(status.device().index());
    Tensor out = alloc_float_status(status);
    if (overflowed) out.select(0, 0).fill_(1);
    return out;
}
Tensor clear_float_status(const Tensor &status, int64_t) {
    overflowed = false;
    return alloc_float_status(status);
}

// ---- fused operators of NPU training, from their definitions ----
using OptInts = at::OptionalIntArrayRef;
using OptTensor = const std::optional<Tensor> &;

Tensor f32(const Tensor &t) { return t.to(at::kFloat); }

std::vector<int64_t> trailing(const Tensor &x, const Tensor &gamma) {
    std::vector<int64_t> dims;
    for (int64_t d = x.dim() - gamma.dim(); d < x.dim(); ++d) dims.push_back(d);
    return dims;
}
std::tuple<Tensor, Tensor> rms_norm(const Tensor &x, const Tensor &gamma, double eps) {
    Tensor wide = f32(x), rstd = wide.square().mean(trailing(x, gamma), true).add(eps).rsqrt();
    return {(wide * rstd * f32(gamma)).to(x.scalar_type()), rstd};
}
std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor &dy, const Tensor &x, const Tensor &gamma, const Tensor &rstd) {
    auto dims = trailing(x, gamma);
    Tensor normal = f32(x) * rstd, weighted = f32(dy) * f32(gamma);
    Tensor dx = rstd * (weighted - normal * (weighted * normal).mean(dims, true));
    std::vector<int64_t> leading;
    for (int64_t d = 0; d < x.dim() - gamma.dim(); ++d) leading.push_back(d);
    Tensor dgamma = f32(dy) * normal;
    if (!leading.empty()) dgamma = dgamma.sum(leading);
    return {dx.to(x.scalar_type()), dgamma.to(gamma.scalar_type())};
}
std::tuple<Tensor, Tensor, Tensor> add_rms_norm(const Tensor &a, const Tensor &b, const Tensor &gamma, double eps) {
    Tensor x = a + b;
    auto [y, rstd] = rms_norm(x, gamma, eps);
    return {y, rstd, x};
}

// half: (-x2, x1) of the two halves; interleave: the same of neighbours.
Tensor rotate(const Tensor &x, c10::string_view mode) {
    if (mode == "half") {
        auto h = x.chunk(2, -1);
        return at::cat({-h[1], h[0]}, -1);
    }
    TORCH_CHECK(mode == "interleave", "emulated CANN: npu_rotary_mul: rotary_mode ", mode, " is not emulated");
    Tensor even = x.slice(-1, 0, c10::nullopt, 2), odd = x.slice(-1, 1, c10::nullopt, 2);
    return at::stack({-odd, even}, -1).flatten(-2);
}
Tensor unrotate(const Tensor &g, c10::string_view mode) { return -rotate(g, mode); }      // a quarter turn back
Tensor rotary_mul(const Tensor &x, const Tensor &cos, const Tensor &sin, c10::string_view mode, OptTensor matrix) {
    TORCH_CHECK(!matrix || !matrix->defined(), "emulated CANN: npu_rotary_mul with a rotate matrix is not emulated");
    return (x * cos + rotate(x, mode) * sin).to(x.scalar_type());
}
std::tuple<Tensor, Tensor, Tensor> rotary_mul_backward(const Tensor &g, const Tensor &x, const Tensor &cos, const Tensor &sin, c10::string_view mode) {
    Tensor dx = (g * cos + unrotate(g * sin, mode)).to(x.scalar_type());
    return {dx, (g * x).sum_to_size(cos.sizes()), (g * rotate(x, mode)).sum_to_size(sin.sizes())};
}
std::tuple<Tensor, Tensor> apply_rotary_pos_emb(const Tensor &q, const Tensor &k, const Tensor &cos, const Tensor &sin, c10::string_view layout, c10::string_view mode) {
    TORCH_CHECK(layout == "BSND", "emulated CANN: npu_apply_rotary_pos_emb: layout ", layout, " is not emulated");
    return {rotary_mul(q, cos, sin, mode, {}), rotary_mul(k, cos, sin, mode, {})};
}

Tensor swiglu(const Tensor &x, int64_t dim) {
    auto h = x.chunk(2, dim);
    return (at::silu(f32(h[0])) * f32(h[1])).to(x.scalar_type());
}
Tensor swiglu_backward(const Tensor &g, const Tensor &x, int64_t dim) {
    auto h = x.chunk(2, dim);
    Tensor a = f32(h[0]), b = f32(h[1]), wide = f32(g);
    return at::cat({at::silu_backward(wide * b, a), wide * at::silu(a)}, dim).to(x.scalar_type());
}
Tensor silu(const Tensor &x) { return at::silu(x); }
Tensor &silu_(Tensor &x) { return at::silu_(x); }
Tensor silu_backward(const Tensor &g, const Tensor &x, const Tensor &) { return at::silu_backward(g, x); }
Tensor gelu(const Tensor &x, c10::string_view approximate) { return at::gelu(x, approximate); }
Tensor gelu_backward(const Tensor &g, const Tensor &x, c10::string_view approximate) { return at::gelu_backward(g, x, approximate); }
Tensor fast_gelu(const Tensor &x) { return x * at::sigmoid(x * 1.702); }
Tensor fast_gelu_backward(const Tensor &g, const Tensor &x) {
    Tensor s = at::sigmoid(x * 1.702);
    return g * (s + x * 1.702 * s * (1 - s));
}
Tensor linear(const Tensor &x, const Tensor &w, OptTensor b) {
    Tensor y = at::matmul(x, w.t());
    return b && b->defined() ? y + *b : y;
}
std::tuple<Tensor, Tensor> linear_backward(const Tensor &g, const Tensor &x, const Tensor &w) {
    return {at::matmul(g, w), at::matmul(g.reshape({-1, g.size(-1)}).t(), x.reshape({-1, x.size(-1)}))};
}
// Not by `to`, which an older torch_npu takes to this operator.
Tensor dtype_cast(const Tensor &x, c10::ScalarType type) { return at::empty_like(x, x.options().dtype(type)).copy_(x); }
Tensor dtype_cast_backward(const Tensor &g, c10::ScalarType type, std::optional<int64_t>, std::optional<int64_t>) { return dtype_cast(g, type); }

std::tuple<Tensor, Tensor> byte_dropout(const Tensor &x, double p) {
    Tensor mask = at::empty(x.sizes(), x.options().dtype(at::kByte)).bernoulli_(1 - p);
    return {p >= 1 ? at::zeros_like(x) : x * mask / (1 - p), mask};
}
Tensor byte_dropout_backward(const Tensor &g, const Tensor &mask, double p) { return p >= 1 ? at::zeros_like(g) : g * mask / (1 - p); }

Tensor scaled_masked_softmax(const Tensor &x, const Tensor &mask, const at::Scalar &scale, bool triangle) {
    Tensor hidden = triangle ? at::ones({x.size(-2), x.size(-1)}, x.options().dtype(at::kBool)).triu(1) : mask.to(at::kBool);
    return at::softmax((f32(x) * scale).masked_fill(hidden, -10000.0), -1).to(x.scalar_type());
}
Tensor scaled_masked_softmax_backward(const Tensor &g, const Tensor &y, const Tensor &mask, const at::Scalar &scale, bool triangle) {
    Tensor hidden = triangle ? at::ones({y.size(-2), y.size(-1)}, y.options().dtype(at::kBool)).triu(1) : mask.to(at::kBool);
    Tensor a = f32(y), b = f32(g);
    return (a * (b - (a * b).sum(-1, true)) * scale).masked_fill(hidden, 0).to(y.scalar_type());
}

Tensor format_cast(const Tensor &x, int64_t format, std::optional<int64_t>, std::optional<int64_t>) {
    TORCH_CHECK(format == 2 || format == 0, "emulated CANN: npu_format_cast to format ", format, " is not emulated: memory here is ND");
    return x.alias();
}
Tensor format_cast_short(const Tensor &x, int64_t format) { return format_cast(x, format, {}, {}).clone(); }

// softmax(q k^T * scale, masked) v, with dropout on the weights. atten_mask: 1 hides.
struct Attention {
    std::string layout;
    int64_t heads;
    double scale, keep;
    int64_t pre, next, sparse, seed, offset;

    Tensor bnsd(const Tensor &t, int64_t n) const {          // to batch, heads, sequence, depth
        if (layout == "BNSD") return t;
        if (layout == "BSND") return t.transpose(1, 2);
        if (layout == "BSH") return t.reshape({t.size(0), t.size(1), n, t.size(2) / n}).transpose(1, 2);
        if (layout == "SBH") return t.reshape({t.size(0), t.size(1), n, t.size(2) / n}).permute({1, 2, 0, 3});
        TORCH_CHECK(false, "emulated CANN: npu_fusion_attention: input_layout ", layout, " is not emulated");
    }
    Tensor back(const Tensor &t) const {
        if (layout == "BNSD") return t.contiguous();
        if (layout == "BSND") return t.transpose(1, 2).contiguous();
        if (layout == "BSH") return t.transpose(1, 2).reshape({t.size(0), t.size(2), -1});
        return t.permute({2, 0, 1, 3}).reshape({t.size(2), t.size(0), -1});
    }
    int64_t kv_heads(const Tensor &q, const Tensor &k) const {
        if (layout == "BNSD") return k.size(1);
        if (layout == "BSND") return k.size(2);
        return k.size(2) / (q.size(2) / heads);
    }
    struct Hidden { Tensor where; bool causal; };             // on the CPU
    Hidden mask(int64_t sq, int64_t sk, OptTensor given) const {
        auto whole = at::ones({sq, sk}, at::kBool);
        switch (sparse) {
            case 0:
            case 1: {
                if (!given || !given->defined()) return {Tensor(), false};
                Tensor m = given->cpu().to(at::kBool);
                if (sparse == 0 && next < sk) m = m.logical_or(whole.triu(next + 1));
                if (sparse == 0 && pre < sq) m = m.logical_or(whole.tril(-pre - 1));
                return {m, false};
            }
            case 2:                                          // aligned at the upper left
                if (sq == sk) return {Tensor(), true};
                return {whole.triu(1), false};
            case 3:                                          // aligned at the lower right
                if (sq == sk) return {Tensor(), true};
                return {whole.triu(sk - sq + 1), false};
        }
        TORCH_CHECK(false, "emulated CANN: npu_fusion_attention: sparse_mode ", sparse, " is not emulated");
    }
    std::optional<Tensor> bias(const Hidden &hidden, const Tensor &q) const {
        if (!hidden.where.defined()) return c10::nullopt;
        Tensor b = at::zeros(hidden.where.sizes(), q.options()).masked_fill_(hidden.where, -INFINITY);
        while (b.dim() < 4) b = b.unsqueeze(0);
        return b;
    }
    Tensor dropped(const Tensor &like) const {
        auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t(seed) ^ (uint64_t(offset) * 0x9e3779b97f4a7c15ull));
        return at::empty(like.sizes(), like.options()).bernoulli_(keep, generator).div_(keep);
    }
    Tensor scores(const Tensor &q, const Tensor &k, const Hidden &hidden) const {
        Tensor s = at::matmul(f32(q), f32(k).transpose(-2, -1)) * scale;
        if (hidden.where.defined()) return s.masked_fill(hidden.where, -INFINITY);
        return hidden.causal ? s.masked_fill(at::ones({s.size(-2), s.size(-1)}, at::kBool).triu(1), -INFINITY) : s;
    }
};

Tensor grouped(const Tensor &kv, int64_t heads) {
    return kv.size(1) == heads ? kv : kv.repeat_interleave(heads / kv.size(1), 1);
}

void only(bool condition, const char *what) { TORCH_CHECK(condition, "emulated CANN: npu_fusion_attention with ", what, " is not emulated"); }
bool absent(OptTensor t) { return !t || !t->defined(); }

std::tuple<Tensor, Tensor, Tensor, Tensor, int64_t, int64_t, int64_t> attention(
    const Tensor &query, const Tensor &key, const Tensor &value, int64_t heads, c10::string_view layout, OptTensor pse, OptTensor padding,
    OptTensor mask, double scale, double keep, int64_t pre, int64_t next, int64_t, OptInts prefix, OptInts qlen, OptInts kvlen,
    int64_t sparse, bool, bool, c10::string_view, OptTensor sink, OptTensor dropout_mask, int64_t, int64_t) {
    only(absent(pse) && absent(padding) && absent(sink) && absent(dropout_mask), "pse, padding_mask, sink or dropout_mask");
    only(!prefix && !qlen && !kvlen, "prefix or actual_seq_*len");
    Attention a{std::string(layout), heads, scale, keep, pre, next, sparse, 0, 0};
    int64_t kv = a.kv_heads(query, key), numels = 0;
    Tensor q = a.bnsd(query, heads).cpu(), k = grouped(a.bnsd(key, kv), heads).cpu(), v = grouped(a.bnsd(value, kv), heads).cpu();
    auto hidden = a.mask(q.size(-2), k.size(-2), mask);
    Tensor y, top;                                           // top: log of the sum, so that the sum that goes with it is one
    if (keep == 1) {
        std::tie(y, top) = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, hidden.causal, a.bias(hidden, q), scale);
    } else {
        auto generator = default_generator(query.device().index());
        {
            std::lock_guard<std::mutex> guard(generator.mutex());
            a.seed = int64_t(generator.current_seed());
            a.offset = int64_t(generator.get_offset());
            generator.set_offset(uint64_t(a.offset) + 4);
        }
        Tensor s = a.scores(q, k, hidden);
        top = s.logsumexp(-1);
        Tensor p = (s - top.unsqueeze(-1)).exp().nan_to_num(0);     // a row that hides everything gives nothing
        y = at::matmul(p * a.dropped(p), f32(v)).to(q.scalar_type());
        numels = p.numel();
    }
    top = top.to(at::kFloat).unsqueeze(-1).expand({-1, -1, -1, 8}).contiguous().to(query.device());
    return {a.back(y).to(query.device()), top, at::ones_like(top), at::empty({0}, query.options()), a.seed, a.offset, numels};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_grad(
    const Tensor &query, const Tensor &key, const Tensor &value, const Tensor &dy, int64_t heads, c10::string_view layout, OptTensor pse,
    OptTensor padding, OptTensor mask, OptTensor softmax_max, OptTensor softmax_sum, OptTensor, OptTensor attention_in, double scale, double keep,
    int64_t pre, int64_t next, int64_t, int64_t seed, int64_t offset, int64_t, OptInts prefix, OptInts qlen, OptInts kvlen, int64_t sparse,
    bool, bool, c10::string_view, OptTensor sink) {
    only(absent(pse) && absent(padding) && absent(sink), "pse, padding_mask or sink");
    only(!prefix && !qlen && !kvlen, "prefix or actual_seq_*len");
    Attention a{std::string(layout), heads, scale, keep, pre, next, sparse, seed, offset};
    int64_t kv = a.kv_heads(query, key);
    Tensor q = a.bnsd(query, heads).cpu(), k = grouped(a.bnsd(key, kv), heads).cpu(), v = grouped(a.bnsd(value, kv), heads).cpu();
    Tensor g = a.bnsd(dy, heads).cpu(), top = (softmax_max->select(-1, 0) + softmax_sum->select(-1, 0).log()).cpu(), dq, dk, dv;
    auto hidden = a.mask(q.size(-2), k.size(-2), mask);
    if (keep == 1) {
        Tensor y = a.bnsd(*attention_in, heads).cpu();
        std::tie(dq, dk, dv) = at::_scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, y, top, 0.0, hidden.causal, a.bias(hidden, q), scale);
    } else {
        Tensor p = (a.scores(q, k, hidden) - top.unsqueeze(-1)).exp().nan_to_num(0), kept = a.dropped(p);
        dv = at::matmul((p * kept).transpose(-2, -1), f32(g));
        Tensor dp = at::matmul(f32(g), f32(v).transpose(-2, -1)) * kept, ds = p * (dp - (dp * p).sum(-1, true));
        dq = at::matmul(ds, f32(k)) * scale;
        dk = at::matmul(ds.transpose(-2, -1), f32(q)) * scale;
    }
    auto fold = [&](const Tensor &t) {                       // the heads that share a key add up
        return kv == heads ? t : t.reshape({t.size(0), kv, heads / kv, t.size(2), t.size(3)}).sum(2);
    };
    auto out = [&](const Tensor &t, const Tensor &like) { return a.back(t).to(like.device(), like.scalar_type()); };
    return {out(dq, query), out(fold(dk), key), out(fold(dv), value), Tensor(), Tensor()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, int64_t, int64_t, int64_t> attention_v2(
    const Tensor &q, const Tensor &k, const Tensor &v, int64_t heads, c10::string_view layout, OptTensor pse, OptTensor padding, OptTensor mask,
    OptTensor query_rope, OptTensor key_rope, double scale, double keep, int64_t pre, int64_t next, int64_t inner, OptInts prefix,
    OptInts qlen, OptInts kvlen, int64_t sparse, bool parallel, bool sync, int64_t, OptInts q_start, OptInts kv_start, c10::string_view softmax,
    OptTensor sink, OptTensor dropout_mask, int64_t seed, int64_t offset) {
    only(absent(query_rope) && absent(key_rope) && !q_start && !kv_start, "query_rope, key_rope or start indices");
    return attention(q, k, v, heads, layout, pse, padding, mask, scale, keep, pre, next, inner, prefix, qlen, kvlen, sparse, parallel, sync,
                     softmax, sink, dropout_mask, seed, offset);
}
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> attention_grad_v2(
    const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &dy, int64_t heads, c10::string_view layout, OptTensor pse, OptTensor padding,
    OptTensor mask, OptTensor top, OptTensor sum, OptTensor in, OptTensor out, OptTensor query_rope, OptTensor key_rope, double scale, double keep,
    int64_t pre, int64_t next, int64_t inner, int64_t seed, int64_t offset, int64_t numels, OptInts prefix, OptInts qlen, OptInts kvlen,
    int64_t sparse, bool parallel, bool sync, int64_t, OptInts q_start, OptInts kv_start, c10::string_view softmax, OptTensor sink) {
    only(absent(query_rope) && absent(key_rope) && !q_start && !kv_start, "query_rope, key_rope or start indices");
    auto [dq, dk, dv, dpse, dsink] = attention_grad(q, k, v, dy, heads, layout, pse, padding, mask, top, sum, in, out, scale, keep, pre, next,
                                                    inner, seed, offset, numels, prefix, qlen, kvlen, sparse, parallel, sync, softmax, sink);
    return {dq, dk, dv, dpse, Tensor(), Tensor(), dsink};
}

// Seed and offset travel in tensors in v3.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> attention_v3(
    const Tensor &q, const Tensor &k, const Tensor &v, int64_t heads, c10::string_view layout, OptTensor pse, OptTensor padding, OptTensor mask,
    double scale, double keep, int64_t pre, int64_t next, int64_t inner, at::OptionalSymIntArrayRef prefix, OptTensor qlen, OptTensor kvlen,
    int64_t sparse, bool parallel, bool sync, c10::string_view softmax, OptTensor sink) {
    only(absent(qlen) && absent(kvlen) && !prefix, "prefix or actual_seq_*len");
    auto [y, top, sum, in, seed, offset, numels] = attention(q, k, v, heads, layout, pse, padding, mask, scale, keep, pre, next, inner, {}, {}, {},
                                                            sparse, parallel, sync, softmax, sink, {}, 0, 0);
    auto number = [&](int64_t n) { return at::full({1}, n, q.options().dtype(at::kLong)); };
    return {y, top, sum, in, number(seed), number(offset)};
}
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_grad_v3(
    const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &dy, int64_t heads, c10::string_view layout, OptTensor pse, OptTensor padding,
    OptTensor mask, OptTensor top, OptTensor sum, OptTensor in, OptTensor out, double scale, double keep, int64_t pre, int64_t next, int64_t inner,
    OptTensor seed, OptTensor offset, at::OptionalSymIntArrayRef prefix, OptTensor qlen, OptTensor kvlen, int64_t sparse, bool parallel, bool sync,
    c10::string_view softmax, OptTensor sink) {
    only(absent(qlen) && absent(kvlen) && !prefix, "prefix or actual_seq_*len");
    auto number = [](OptTensor t) { return absent(t) ? int64_t(0) : t->item<int64_t>(); };
    return attention_grad(q, k, v, dy, heads, layout, pse, padding, mask, top, sum, in, out, scale, keep, pre, next, inner, number(seed),
                          number(offset), 0, {}, {}, {}, sparse, parallel, sync, softmax, sink);
}

// ---- registration ----
struct Quiet : c10::WarningHandler { void process(const c10::Warning &) override {} };

template <class R, class... A> constexpr size_t arity(R (*)(A...)) { return sizeof...(A); }

template <class T> IValue blank() {
    if constexpr (std::is_arithmetic_v<T>) return T{};
    else return {};
}
template <class R, class... A> std::vector<IValue> blanks(R (*)(A...)) { return {blank<std::decay_t<A>>()...}; }

// f for a torch_npu whose operator has not got its last arguments and results yet.
template <auto f> void without_newer(const c10::OperatorHandle &op, c10::DispatchKeySet keys, Stack *stack) {
    static const auto kernel = c10::KernelFunction::makeFromUnboxedFunction(TORCH_FN(f));
    static const auto missing = blanks(f);
    const size_t given = op.schema().arguments().size(), before = stack->size() - given;
    stack->insert(stack->end(), missing.begin() + given, missing.end());
    kernel.callBoxed(op, keys, stack);
    stack->resize(before + op.schema().returns().size());
}

void register_all() {
    Quiet quiet;                                             // replacing kernels is the point
    c10::WarningUtils::WarningHandlerGuard guard(&quiet);
    auto &dispatcher = c10::Dispatcher::singleton();
    auto library = [](const char *ns, DispatchKey key) {
        return new torch::Library(torch::Library::IMPL, ns, key, __FILE__, __LINE__);
    };
    auto *aten = library("aten", DispatchKey::PrivateUse1), *autograd = library("aten", DispatchKey::AutogradPrivateUse1),
         *npu = library("npu", DispatchKey::PrivateUse1);
    std::unordered_set<std::string> done = KEPT;
    auto own = [&](torch::Library *lib, const char *ns, const char *name, size_t takes, torch::CppFunction &&whole, torch::CppFunction &&padded) {
        auto found = dispatcher.findSchema({std::string(ns) + "::" + name, ""});
        if (!found) return;     // this torch_npu does not have it
        lib->impl(name, std::move(found->schema().arguments().size() < takes ? padded : whole));
        done.insert(std::string(ns) + "::" + name);
    };
#define OWN(lib, ns, name, f) own(lib, ns, name, arity(f), torch::CppFunction(TORCH_FN(f)), torch::CppFunction::makeFromBoxedFunction<&without_newer<f>>())
    OWN(aten, "aten", "copy_", copy_);
    OWN(aten, "aten", "_copy_from", copy_from);
    OWN(aten, "aten", "_copy_from_and_resize", copy_from_and_resize);
    OWN(npu, "npu", "copy_memory_", copy_memory_);
    OWN(npu, "npu", "_amp_foreach_non_finite_check", non_finite);
    OWN(npu, "npu", "npu_alloc_float_status", alloc_float_status);
    OWN(npu, "npu", "npu_get_float_status", get_float_status);
    OWN(npu, "npu", "npu_clear_float_status", clear_float_status);
    OWN(npu, "npu", "npu_rms_norm", rms_norm);
    OWN(npu, "npu", "npu_rms_norm_backward", rms_norm_backward);
    OWN(npu, "npu", "npu_add_rms_norm", add_rms_norm);
    OWN(npu, "npu", "npu_rotary_mul", rotary_mul);
    OWN(npu, "npu", "npu_rotary_mul_backward", rotary_mul_backward);
    OWN(npu, "npu", "npu_apply_rotary_pos_emb", apply_rotary_pos_emb);
    OWN(npu, "npu", "npu_swiglu", swiglu);
    OWN(npu, "npu", "npu_swiglu_backward", swiglu_backward);
    OWN(npu, "npu", "npu_silu", silu);
    OWN(npu, "npu", "npu_silu_", silu_);
    OWN(npu, "npu", "npu_silu_backward", silu_backward);
    OWN(npu, "npu", "npu_gelu", gelu);
    OWN(npu, "npu", "npu_gelu_backward", gelu_backward);
    OWN(npu, "npu", "fast_gelu", fast_gelu);
    OWN(npu, "npu", "npu_fast_gelu", fast_gelu);
    OWN(npu, "npu", "npu_fast_gelu_backward", fast_gelu_backward);
    OWN(npu, "npu", "npu_linear", linear);
    OWN(npu, "npu", "npu_linear_backward", linear_backward);
    OWN(npu, "npu", "_npu_dtype_cast", dtype_cast);
    OWN(npu, "npu", "npu_dtype_cast_backward", dtype_cast_backward);
    OWN(npu, "npu", "_npu_dtype_cast_backward", dtype_cast_backward);
    OWN(npu, "npu", "_npu_dropout", byte_dropout);
    OWN(npu, "npu", "_dropout_with_byte_mask", byte_dropout);
    OWN(npu, "npu", "npu_dropout_backward", byte_dropout_backward);
    OWN(npu, "npu", "_dropout_with_byte_mask_backward", byte_dropout_backward);
    OWN(npu, "npu", "npu_scaled_masked_softmax", scaled_masked_softmax);
    OWN(npu, "npu", "npu_scaled_masked_softmax_backward", scaled_masked_softmax_backward);
    OWN(npu, "npu", "npu_format_cast", format_cast);
    OWN(npu, "npu", "_npu_format_cast", format_cast_short);
    OWN(npu, "npu", "npu_fusion_attention", attention);
    OWN(npu, "npu", "npu_fusion_attention_grad", attention_grad);
    OWN(npu, "npu", "npu_fusion_attention_v2", attention_v2);
    OWN(npu, "npu", "npu_fusion_attention_grad_v2", attention_grad_v2);
    OWN(npu, "npu", "npu_fusion_attention_v3", attention_v3);
    OWN(npu, "npu", "npu_fusion_attention_grad_v3", attention_grad_v3);
#undef OWN

    auto put = [](torch::Library *lib, const c10::OperatorName &op, auto f) {
        std::string name = op.name.substr(op.name.find("::") + 2);
        if (!op.overload_name.empty()) name += "." + op.overload_name;
        lib->impl(name.c_str(), std::move(f));
    };
    for (const auto &op_name : dispatcher.getAllOpNames()) {
        auto found = dispatcher.findSchema(op_name);
        if (!found) continue;
        const std::string name = name_of(*found);
        bool is_aten = op_name.name.rfind("aten::", 0) == 0, is_npu = op_name.name.rfind("npu::", 0) == 0;
        if (!is_aten && !is_npu) continue;
        bool cpu = found->hasKernelForDispatchKey(DispatchKey::CPU),
             composite = found->hasKernelForDispatchKey(DispatchKey::CompositeImplicitAutograd) ||
                         found->hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutograd);
        // What another backend would differentiate through its parts: torch_npu has a kernel of the whole, and torch no backward.
        bool in_parts = found->hasKernelForDispatchKey(DispatchKey::PrivateUse1) &&
                        found->hasKernelForDispatchKey(DispatchKey::CompositeImplicitAutograd) && !cpu;
        if (found->hasKernelForDispatchKey(DispatchKey::PrivateUse1) && !done.count(name)) {
            auto *lib = is_aten ? aten : npu;
            if (is_aten && cpu) put(lib, op_name, torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
            else if (is_aten && composite) put(lib, op_name, torch::CppFunction::makeFromBoxedFunction<&as_any_backend>());
            else put(lib, op_name, torch::CppFunction::makeFromBoxedFunction<&raises>());
        }
        if (is_aten && (in_parts || found->hasKernelForDispatchKey(DispatchKey::AutogradPrivateUse1)) && !KEPT.count(name))
            put(autograd, op_name, torch::CppFunction::makeFromBoxedFunction<&as_any_autograd>());
    }
}

const bool registered = [] { register_all(); return true; }();
}  // namespace
