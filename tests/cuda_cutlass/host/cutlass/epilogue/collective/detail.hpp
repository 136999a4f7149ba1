// The kernel layer's side of an epilogue, which the host does not need.
#pragma once

namespace cutlass::epilogue::collective::detail {

template <class Op>
struct Sm90TmaWarpSpecializedAdapter : Op {};

}  // namespace cutlass::epilogue::collective::detail
