#include "bindings/tensor.h"

#include <string>

#include "core/check.h"
#include "ops/program.h"

namespace py = pybind11;

namespace phi3::bindings {
namespace {

std::string label(const char* op, const char* name) { return std::string(op) + ": " + name; }

bool to_dtype(dlpack::DataType type, DType& dtype) {
  if (type.lanes != 1) return false;
  if (type.code == 2 && type.bits == 32) {
    dtype = DType::kFloat32;
  } else if (type.code == 4 && type.bits == 16) {
    dtype = DType::kBFloat16;
  } else if (type.code == dlpack::kFloat8E4m3fn && type.bits == 8) {
    dtype = DType::kFloat8;
  } else if (type.code == 0 && type.bits == 8) {
    dtype = DType::kInt8;
  } else if (type.code == 1 && type.bits == 8) {
    dtype = DType::kUInt8;
  } else if (type.code == 0 && type.bits == 32) {
    dtype = DType::kInt32;
  } else if (type.code == 0 && type.bits == 64) {
    dtype = DType::kInt64;
  } else {
    return false;
  }
  return true;
}

// The exchange table of a type, or null. Types are few and immortal in practice (torch.Tensor,
// Parameter), and a cached one is kept alive, so that its address cannot come to mean another type.
const dlpack::ExchangeApi* exchange_api(PyTypeObject* type) {
  struct Entry {
    PyTypeObject* type = nullptr;
    const dlpack::ExchangeApi* api = nullptr;
  };
  static std::array<Entry, 8> cache;  // guarded by the GIL
  for (const Entry& entry : cache) {
    if (entry.type == type) return entry.api;
  }
  const dlpack::ExchangeApi* api = nullptr;
  const py::handle type_object(reinterpret_cast<PyObject*>(type));
  const py::object capsule = py::getattr(type_object, "__dlpack_c_exchange_api__", py::none());
  if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api") != 0) {
    api = static_cast<const dlpack::ExchangeApi*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    while (api != nullptr && api->version.major != 1) api = api->previous;
    if (api != nullptr && api->borrow_from_object == nullptr) api = nullptr;
  }
  for (Entry& entry : cache) {
    if (entry.type == nullptr) {
      Py_INCREF(type);
      entry = {type, api};
      break;
    }
  }
  return api;
}

// Asks for a versioned capsule, which says whether the memory is read-only; older exporters take no
// such keyword.
py::object export_capsule(py::handle object) {
  try {
    return object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return object.attr("__dlpack__")();
}

// What the consumer of a capsule owes its producer.
template <typename Managed>
void release(const py::object& capsule, const char* name) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (managed == nullptr) {
    PyErr_Clear();
  } else if (managed->deleter != nullptr) {
    managed->deleter(managed);
  }
}

constexpr const char* kUsedName = "used_dltensor";
constexpr const char* kUsedVersionedName = "used_dltensor_versioned";

void release(const py::object& capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), kUsedVersionedName) != 0) {
    release<dlpack::VersionedTensor>(capsule, kUsedVersionedName);
  } else {
    release<dlpack::ManagedTensor>(capsule, kUsedName);
  }
}

}  // namespace

Arguments::~Arguments() {
  for (std::size_t idx = 0; idx < num_capsules_; ++idx) release(capsules_[idx]);
}

TensorView Arguments::input(const char* name, py::handle object) {
  return convert(name, object, /*is_output=*/false);
}

std::optional<TensorView> Arguments::optional_input(const char* name, py::handle object) {
  if (object.is_none()) return std::nullopt;
  return convert(name, object, /*is_output=*/false);
}

TensorView Arguments::output(const char* name, py::handle object) {
  return convert(name, object, /*is_output=*/true);
}

std::optional<TensorView> Arguments::optional_output(const char* name, py::handle object) {
  if (object.is_none()) return std::nullopt;
  return convert(name, object, /*is_output=*/true);
}

PackedView Arguments::packed(const char* name, py::handle object) {
  return convert_packed(name, object, /*is_output=*/false);
}

PackedView Arguments::packed_output(const char* name, py::handle object) {
  return convert_packed(name, object, /*is_output=*/true);
}

PackedView Arguments::convert_packed(const char* name, py::handle object, bool is_output) {
  if (!py::isinstance<py::tuple>(object)) return convert(name, object, is_output);
  const auto parts = py::reinterpret_borrow<py::tuple>(object);
  if (parts.size() != 3 || !py::isinstance<py::str>(parts[1]) ||
      !py::isinstance<py::int_>(parts[2])) {
    throw py::type_error(label(op_, name) + ": expected (tensor, format, columns)");
  }
  const auto stored = parts[1].cast<std::string>();
  const std::optional<WeightFormat> format = find_format(stored);
  PHI3_CHECK(format && !is_float(*format),
             op_,
             ": ",
             name,
             " is of format '",
             stored,
             "', expected fp8 or one of the integer formats");
  const py::int_ columns = parts[2];
  PHI3_CHECK(columns >= py::int_(1) && columns <= py::int_(kMaxIntegerK),
             op_,
             ": ",
             name,
             " has ",
             py::str(columns).cast<std::string>(),
             " columns, expected 1..",
             kMaxIntegerK);
  return {convert(name, parts[0], is_output), *format, columns.cast<std::int64_t>()};
}

TensorView Arguments::convert(const char* name, py::handle object, bool is_output) {
  if (const dlpack::ExchangeApi* api = exchange_api(Py_TYPE(object.ptr()))) {
    dlpack::Tensor tensor{};
    if (api->borrow_from_object(object.ptr(), &tensor) != 0) throw py::error_already_set();
    if (ops::Program* program = ops::Program::recorded()) {
      program->keep({object.inc_ref().ptr(), [](PyObject* tensor) { Py_DECREF(tensor); }});
    }
    TensorView view = view_of(name, tensor);
    if (view.device.type == DeviceType::kCuda && api->current_work_stream != nullptr) {
      if (api->current_work_stream(
              tensor.device.type, tensor.device.id, &view.device.stream.handle) != 0) {
        throw py::error_already_set();
      }
    }
    return view;
  }
  return borrow(name, object, is_output);
}

TensorView Arguments::borrow(const char* name, py::handle object, bool is_output) {
  if (!py::hasattr(object, "__dlpack__")) {
    throw py::type_error(label(op_, name) + " is " + Py_TYPE(object.ptr())->tp_name +
                         ", expected a tensor");
  }
  py::object capsule = export_capsule(object);
  const dlpack::Tensor* tensor = nullptr;
  bool is_read_only = false;
  bool is_known = true;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
    auto* managed = static_cast<dlpack::VersionedTensor*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    PyCapsule_SetName(capsule.ptr(), kUsedVersionedName);
    is_known = managed->version.major == 1;
    if (is_known) {
      tensor = &managed->tensor;
      is_read_only = (managed->flags & dlpack::kReadOnly) != 0;
    }
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor") != 0) {
    auto* managed =
        static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    PyCapsule_SetName(capsule.ptr(), kUsedName);
    tensor = &managed->tensor;
  } else {
    throw py::type_error(label(op_, name) + ": __dlpack__ returned no DLPack capsule");
  }
  if (ops::Program* program = ops::Program::recorded()) {
    program->keep({new py::object(capsule), [](py::object* kept) {
                     release(*kept);
                     delete kept;
                   }});
  } else {
    capsules_[num_capsules_++] = std::move(capsule);
  }
  PHI3_CHECK(is_known, op_, ": ", name, " speaks an unknown major version of DLPack");
  PHI3_CHECK(!is_output || !is_read_only, op_, ": ", name, " is read-only");
  return view_of(name, *tensor);
}

TensorView Arguments::view_of(const char* name, const dlpack::Tensor& tensor) const {
  TensorView view;
  PHI3_CHECK(to_dtype(tensor.dtype, view.dtype),
             op_,
             ": ",
             name,
             " has DLPack dtype (code ",
             int{tensor.dtype.code},
             ", ",
             int{tensor.dtype.bits},
             " bits), expected float32, bfloat16, float8_e4m3fn, int8, uint8, int32 or int64");
  PHI3_CHECK(tensor.ndim >= 1 && tensor.ndim <= TensorView::kMaxRank,
             op_,
             ": ",
             name,
             " has rank ",
             tensor.ndim,
             ", expected 1..",
             TensorView::kMaxRank);
  const bool is_cuda = tensor.device.type == dlpack::kCuda;
  PHI3_CHECK(
      is_cuda || tensor.device.type == dlpack::kCpu || tensor.device.type == dlpack::kCudaHost,
      op_,
      ": ",
      name,
      " is on a device of DLPack type ",
      tensor.device.type,
      ", expected CPU or CUDA");
  view.device = {
      is_cuda ? DeviceType::kCuda : DeviceType::kCpu, is_cuda ? tensor.device.id : 0, {}};
  view.data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  view.rank = tensor.ndim;
  std::int64_t dense = 1;
  for (int dim = view.rank - 1; dim >= 0; --dim) {
    const auto idx = static_cast<std::size_t>(dim);
    view.sizes[idx] = tensor.shape[dim];
    view.strides[idx] = tensor.strides != nullptr ? tensor.strides[dim] : dense;
    dense *= tensor.shape[dim];
  }
  PHI3_CHECK(reinterpret_cast<std::uintptr_t>(view.data) %
                     static_cast<std::uintptr_t>(dtype_size(view.dtype)) ==
                 0,
             op_,
             ": ",
             name,
             " is not aligned to its ",
             dtype_size(view.dtype),
             "-byte elements");
  return view;
}

}  // namespace phi3::bindings
