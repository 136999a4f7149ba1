#include "check.h"
#include "core/match.h"
#include "tensors.h"

using phi3::Dim;
using phi3::DType;
using phi3::Matcher;
using phi3::TensorView;
using phi3::test::Tensor;

TEST(match_binds_a_dim_and_holds_later_tensors_to_it) {
  Matcher matcher("op");
  Dim rows("T");
  Dim width("E");
  matcher.match("a", Tensor<float>({3, 4}), DType::kFloat32, {&rows, &width});
  EXPECT_EQ(rows.value(), 3);
  EXPECT_EQ(width.value(), 4);
  EXPECT_ERROR(matcher.match("b", Tensor<float>({5}), DType::kFloat32, {&width}),
               "op: b dim 0 (E) is 5, expected 4");
}

TEST(match_names_the_place_of_the_check) {
  Matcher matcher("op");
  Dim width("E", 1);
  const std::string message = phi3::test::error_of(
      [&] { matcher.match("b", Tensor<float>({5}), DType::kFloat32, {&width}); });
  EXPECT(message.find("[test_match.cc:") != std::string::npos);
}

TEST(match_names_a_wrong_dtype_and_rank) {
  Matcher matcher("op");
  Dim width("E");
  EXPECT_ERROR(matcher.match("a", Tensor<std::int32_t>({5}), DType::kFloat32, {&width}),
               "op: a is int32, expected float32");
  EXPECT_ERROR(matcher.match("a", Tensor<float>({5, 1}), DType::kFloat32, {&width}),
               "op: a has rank 2, expected 1");
  EXPECT_ERROR(matcher.model_dtype("a", Tensor<std::int64_t>({5})),
               "op: a is int64, expected float32 or bfloat16");
}

TEST(match_refuses_what_is_not_dense) {
  Tensor<float> tensor({4, 6});
  TensorView rows = tensor.view();  // every row, four of six columns
  rows.sizes[1] = 4;
  TensorView transposed = tensor.view();
  std::swap(transposed.sizes[0], transposed.sizes[1]);
  std::swap(transposed.strides[0], transposed.strides[1]);
  Matcher matcher("op");
  const auto match = [&](const TensorView& view) {
    Dim a("A"), b("B");
    matcher.match("a", view, DType::kFloat32, {&a, &b});
  };
  const auto match_rows = [&](const TensorView& view) {
    Dim a("A"), b("B");
    matcher.match_rows("a", view, DType::kFloat32, {&a, &b});
  };
  match(tensor);
  match_rows(rows);
  EXPECT_ERROR(match(rows), "op: a is not contiguous");
  EXPECT_ERROR(match_rows(transposed), "op: a is not contiguous within its rows");
}

TEST(match_takes_any_stride_of_a_dim_of_one) {
  Tensor<float> tensor({1, 6});
  TensorView view = tensor.view();
  view.strides[0] = 77;
  Matcher matcher("op");
  Dim a("A"), b("B");
  matcher.match("a", view, DType::kFloat32, {&a, &b});
  EXPECT_EQ(b.value(), 6);
}

TEST(match_refuses_an_output_whose_rows_overlap) {
  Tensor<float> tensor({3, 6});
  TensorView view = tensor.view();
  view.strides[0] = 5;
  Matcher matcher("op");
  Dim a("A"), b("B");
  EXPECT_ERROR(matcher.match_out_rows("a", view, DType::kFloat32, {&a, &b}),
               "op: a has rows 5 elements apart, expected at least 6");
}

TEST(match_refuses_tensors_of_two_devices) {
  Tensor<float> host({2});
  TensorView other = host.view();
  other.device = {phi3::DeviceType::kCuda, 1};
  Matcher matcher("op");
  Dim a("A");
  matcher.match("a", host, DType::kFloat32, {&a});
  EXPECT_ERROR(matcher.match("b", other, DType::kFloat32, {&a}),
               "op: b is on cuda:1, expected cpu:0");
}
