// One instruction at a time, in each of its forms, on any of its types. The data goes through UB with everything
// ordered.
#include "arithmetic.h"

#include "kernel_operator.h"

using AscendC::LocalTensor;

template <typename D, typename S>
struct Operands {
  LocalTensor<D> dst;
  LocalTensor<S> a;
  LocalTensor<S> b;
};

// The three forms; the strided one leaves a block out after each block of the first source.
#define BINARY(Name)                                                                        \
  if (form == kCount) return AscendC::Name(o.dst, o.a, o.b, count);                         \
  if (form == kMask) return AscendC::Name(o.dst, o.a, o.b, mask, repeats, even);            \
  if (form == kBits) return AscendC::Name(o.dst, o.a, o.b, bits, repeats, even);            \
  return AscendC::Name(o.dst, o.a, o.b, mask, strided_repeats, {1, 2, 0, 8, 16, 1})
#define UNARY(Name)                                                                         \
  if (form == kCount) return AscendC::Name(o.dst, o.a, count);                              \
  if (form == kMask) return AscendC::Name(o.dst, o.a, mask, repeats, along);                \
  if (form == kBits) return AscendC::Name(o.dst, o.a, bits, repeats, along);                \
  return AscendC::Name(o.dst, o.a, mask, strided_repeats, {1, 2, 8, 16})
#define SCALAR(Name)                                                                        \
  if (form == kCount) return AscendC::Name(o.dst, o.a, scalar, count);                      \
  if (form == kMask) return AscendC::Name(o.dst, o.a, scalar, mask, repeats, along);        \
  if (form == kBits) return AscendC::Name(o.dst, o.a, scalar, bits, repeats, along);        \
  return AscendC::Name(o.dst, o.a, scalar, mask, strided_repeats, {1, 2, 8, 16})

template <typename T>
__aicore__ inline void Map(const Operands<T, T>& o, const ArithmeticTiling& t) {
  const int32_t form = t.form, count = t.count;
  const uint8_t repeats = static_cast<uint8_t>(t.repeats), strided_repeats = static_cast<uint8_t>(t.repeats / 2);
  uint64_t mask = t.mask;
  uint64_t bits[2] = {t.bits[0], t.bits[1]};
  const AscendC::BinaryRepeatParams even(1, 1, 1, 8, 8, 8);
  const AscendC::UnaryRepeatParams along(1, 1, 8, 8);
  const T scalar = static_cast<T>(t.scalar);
  constexpr bool kFloating = std::is_same<T, half>::value || std::is_same<T, float>::value;
  switch (t.op) {
    case kAdd: BINARY(Add);
    case kSub: BINARY(Sub);
    case kMul: BINARY(Mul);
    case kMax: BINARY(Max);
    case kMin: BINARY(Min);
    case kAdds: SCALAR(Adds);
    case kMuls: SCALAR(Muls);
    case kMaxs: SCALAR(Maxs);
    case kMins: SCALAR(Mins);
    default: break;
  }
  if constexpr (kFloating) {
    switch (t.op) {
      case kDiv: BINARY(Div);
      case kExp: UNARY(Exp);
      case kLn: UNARY(Ln);
      case kAbs: UNARY(Abs);
      case kSqrt: UNARY(Sqrt);
      case kRsqrt: UNARY(Rsqrt);
      case kReciprocal: UNARY(Reciprocal);
      case kRelu: UNARY(Relu);
      case kLeakyRelu: SCALAR(LeakyRelu);
      case kMulAddDst: BINARY(MulAddDst);
      case kFusedMulAdd: BINARY(FusedMulAdd);
      case kAxpy: SCALAR(Axpy);
      default: break;
    }
  }
}

template <typename T>
__aicore__ inline void Move(const Operands<T, T>& o, const ArithmeticTiling& t) {
  const uint8_t repeats = static_cast<uint8_t>(t.repeats);
  uint64_t mask = t.mask;
  uint64_t bits[2] = {t.bits[0], t.bits[1]};
  const T scalar = static_cast<T>(t.scalar);
  switch (t.op) {
    case kDuplicate:
      if (t.form == kCount) return AscendC::Duplicate(o.dst, scalar, t.count);
      if (t.form == kMask) return AscendC::Duplicate(o.dst, scalar, mask, repeats, 1, 8);
      return AscendC::Duplicate(o.dst, scalar, bits, repeats, 1, 8);
    case kBrcb:
      return AscendC::Brcb(o.dst, o.a, 1, {1, 8});
    case kCopy:
      if (t.form == kMask) return AscendC::Copy(o.dst, o.a, mask, repeats, {1, 1, 8, 8});
      return AscendC::Copy(o.dst, o.a, bits, repeats, {1, 1, 8, 8});
    case kCopyWithin:
      if (t.form == kCount) return AscendC::DataCopy(o.dst, o.a, static_cast<uint32_t>(t.count));
      return AscendC::DataCopy(o.dst, o.a, AscendC::DataCopyParams(3, 1, 1, 0));
    default:
      return;
  }
}

template <typename T>
__aicore__ inline void Reduce(const Operands<T, T>& o, const ArithmeticTiling& t) {
  const int32_t mask = static_cast<int32_t>(t.mask), repeats = t.repeats;
  const uint64_t bits[2] = {t.bits[0], t.bits[1]};
  const auto order = static_cast<AscendC::ReduceOrder>(t.order);
  const bool by_bits = t.form == kBits;
  switch (t.op) {
    case kWholeReduceSum:
      if (by_bits) return AscendC::WholeReduceSum(o.dst, o.a, bits, repeats, 1, 1, 8);
      return AscendC::WholeReduceSum(o.dst, o.a, mask, repeats, 1, 1, 8);
    case kWholeReduceMax:
      if (by_bits) return AscendC::WholeReduceMax(o.dst, o.a, bits, repeats, 1, 1, 8, order);
      return AscendC::WholeReduceMax(o.dst, o.a, mask, repeats, 1, 1, 8, order);
    case kWholeReduceMin:
      if (by_bits) return AscendC::WholeReduceMin(o.dst, o.a, bits, repeats, 1, 1, 8, order);
      return AscendC::WholeReduceMin(o.dst, o.a, mask, repeats, 1, 1, 8, order);
    case kBlockReduceSum:
      return AscendC::BlockReduceSum(o.dst, o.a, repeats, mask, 1, 1, 8);
    case kBlockReduceMax:
      return AscendC::BlockReduceMax(o.dst, o.a, repeats, mask, 1, 1, 8);
    case kBlockReduceMin:
      return AscendC::BlockReduceMin(o.dst, o.a, repeats, bits, 1, 1, 8);
    case kPairReduceSum:
      return AscendC::PairReduceSum(o.dst, o.a, repeats, mask, 1, 1, 8);
    case kReduceSum:
      if (t.form == kCount) return AscendC::ReduceSum(o.dst, o.a, o.b, t.count);
      return AscendC::ReduceSum(o.dst, o.a, o.b, mask, repeats, 8);
    case kReduceMax:
      if (t.form == kCount) return AscendC::ReduceMax(o.dst, o.a, o.b, t.count, t.order != 0);
      return AscendC::ReduceMax(o.dst, o.a, o.b, mask, repeats, 8, t.order != 0);
    case kReduceMin:
      return AscendC::ReduceMin(o.dst, o.a, o.b, t.count, t.order != 0);
    default:
      return;
  }
}

template <typename T>
__aicore__ inline void Choose(const Operands<T, T>& o, const LocalTensor<uint8_t>& flags, const ArithmeticTiling& t) {
  const auto compare = static_cast<AscendC::CMPMODE>(t.order);
  const auto select = static_cast<AscendC::SELMODE>(t.order);
  const T scalar = static_cast<T>(t.scalar);
  const uint8_t repeats = static_cast<uint8_t>(t.repeats);
  const LocalTensor<uint8_t> out = o.dst.template ReinterpretCast<uint8_t>();
  switch (t.op) {
    case kCompare:
      if (t.form == kCount) return AscendC::Compare(out, o.a, o.b, compare, static_cast<uint32_t>(t.count));
      return AscendC::Compare(out, o.a, o.b, compare, uint64_t{64}, repeats, {1, 1, 1, 8, 8, 8});
    case kCompareScalar:
      return AscendC::CompareScalar(out, o.a, scalar, compare, static_cast<uint32_t>(t.count));
    case kSelect:
      if (select != AscendC::SELMODE::VSEL_TENSOR_SCALAR_MODE) {
        return AscendC::Select(o.dst, flags, o.a, o.b, select, static_cast<uint32_t>(t.count));
      }
      return AscendC::Select(o.dst, flags, o.a, scalar, select, static_cast<uint32_t>(t.count));
    default:
      return;
  }
}

template <typename T>
__aicore__ inline void Run(GM_ADDR x, GM_ADDR y, GM_ADDR flags, const ArithmeticTiling& t) {
  AscendC::TPipe pipe;
  AscendC::TBuf<AscendC::TPosition::VECCALC> buffers[4];
  AscendC::GlobalTensor<T> from, to;
  AscendC::GlobalTensor<uint8_t> flags_from;
  from.SetGlobalBuffer((__gm__ T*)x);
  to.SetGlobalBuffer((__gm__ T*)y);
  flags_from.SetGlobalBuffer((__gm__ uint8_t*)flags);
  for (auto& buffer : buffers) pipe.InitBuffer(buffer, kArithmeticElements * sizeof(T));
  const Operands<T, T> o{buffers[0].Get<T>(), buffers[1].Get<T>(), buffers[2].Get<T>()};
  const LocalTensor<uint8_t> selected = buffers[3].Get<uint8_t>();
  AscendC::DataCopy(o.a, from, kArithmeticElements);
  AscendC::DataCopy(o.b, from[kArithmeticElements], kArithmeticElements);
  AscendC::DataCopy(o.dst, to, kArithmeticElements);
  AscendC::DataCopy(selected, flags_from, kArithmeticElements / 8);
  AscendC::PipeBarrier<PIPE_ALL>();
  Map(o, t);
  if constexpr (std::is_same<T, half>::value || std::is_same<T, float>::value) {
    Move(o, t);
    Reduce(o, t);
    Choose(o, selected, t);
    if (t.op == kGather) {
      AscendC::Gather(o.dst, o.a, o.b.template ReinterpretCast<uint32_t>(), 0, static_cast<uint32_t>(t.count));
    }
  }
  AscendC::PipeBarrier<PIPE_ALL>();
  AscendC::DataCopy(to, o.dst, kArithmeticElements);
}

extern "C" __global__ __aicore__ void arithmetic(GM_ADDR x, GM_ADDR y, GM_ADDR flags, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  REGISTER_TILING_DEFAULT(ArithmeticTiling);
  GET_TILING_DATA(t, tiling);
  if (t.type == kFloat) Run<float>(x, y, flags, t);
  if (t.type == kHalf) Run<half>(x, y, flags, t);
  if (t.type == kInt32) Run<int32_t>(x, y, flags, t);
  if (t.type == kInt16) Run<int16_t>(x, y, flags, t);
}
