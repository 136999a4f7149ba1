#include "ops/kv_pages.h"

#include "cuda/cuda.h"

namespace phi3 {

DType match_kv_pages(Matcher& matcher,
                     const TensorView& k_pages,
                     const TensorView& v_pages,
                     const std::optional<KvScales>& scales,
                     DType dtype,
                     AttentionDims& dims,
                     std::source_location where) {
  const std::int64_t head_dim = dims.head_dim.value();
  matcher.check(head_dim > 0 && head_dim % kPanelRows == 0 && head_dim <= kMaxHeadDim,
                where,
                "head dim (D) is ",
                head_dim,
                ", expected a multiple of ",
                kPanelRows,
                " of at most ",
                kMaxHeadDim);
  const bool is_on_cuda = cuda::owns(v_pages.device);
  matcher.check(!scales || !is_on_cuda, where, "pages with scales are not supported on CUDA");
  const bool is_float8 = is_on_cuda && v_pages.dtype == DType::kFloat8;
  const DType kv_dtype = scales ? DType::kInt8 : is_float8 ? DType::kFloat8 : dtype;
  Dim keys("page size", kPageSize);
  matcher.match(
      "v_pages", v_pages, kv_dtype, {&dims.pages, &dims.kv_heads, &keys, &dims.head_dim}, where);
  if (is_on_cuda) {
    matcher.match(
        "k_pages", k_pages, kv_dtype, {&dims.pages, &dims.kv_heads, &keys, &dims.head_dim}, where);
  } else if (kv_dtype == DType::kBFloat16) {
    Dim pairs("D/2", head_dim / 2);
    Dim pair("pair", 2);
    matcher.match(
        "k_pages", k_pages, kv_dtype, {&dims.pages, &dims.kv_heads, &pairs, &keys, &pair}, where);
  } else {
    matcher.match(
        "k_pages", k_pages, kv_dtype, {&dims.pages, &dims.kv_heads, &dims.head_dim, &keys}, where);
  }
  if (scales) {
    matcher.match(
        "k_scales", scales->k, DType::kFloat32, {&dims.pages, &dims.kv_heads, &keys}, where);
    matcher.match(
        "v_scales", scales->v, DType::kFloat32, {&dims.pages, &dims.kv_heads, &keys}, where);
  }
  matcher.check(dims.kv_heads.value() > 0 && dims.heads.value() > 0 &&
                    dims.heads.value() % dims.kv_heads.value() == 0,
                where,
                "query heads (H) are ",
                dims.heads.value(),
                ", expected a multiple of the kv heads (K), ",
                dims.kv_heads.value());
  return kv_dtype;
}

}  // namespace phi3
